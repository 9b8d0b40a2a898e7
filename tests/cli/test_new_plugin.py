"""`new plugin`: a package like the example's, under the names that were asked for, or one line why not."""

from __future__ import annotations

import re
import subprocess
import sys
import tomllib
from collections.abc import Callable
from pathlib import Path

import pytest

from trustformers_pl.cli.plugin_template import IN_CHECKOUT, Names, renamed_files, template_files

Command = Callable[..., tuple[int, str, str]]
EXAMPLES_NAMES = ("trustformers-pl-example", "trustformers_pl_example", "gradient_noise", "GradientNoise")


def written(folder: Path) -> dict[str, str]:
    return {str(path.relative_to(folder)): path.read_text() for path in folder.rglob("*") if path.is_file()}


def test_it_writes_the_example_under_the_new_names(command: Command) -> None:
    code, out, _ = command("new", "plugin", "my_feature")
    assert code == 0
    assert out.startswith("trustformers-pl-my-feature: written")
    files = written(Path("trustformers-pl-my-feature"))
    assert len(files) == len(template_files())
    assert not [path for path, text in files.items() for name in EXAMPLES_NAMES if name in path + text]
    project = tomllib.loads(files["pyproject.toml"])["project"]
    assert project["name"] == "trustformers-pl-my-feature"
    assert project["entry-points"] == {
        "trustformers_pl": {"my_feature": "trustformers_pl_my_feature.plugin:MyFeaturePlugin"}
    }
    assert "class MyFeature(Callback)" in files["trustformers_pl_my_feature/callback.py"]
    assert "my_feature: {eta:" in files["examples/my_feature.yaml"]


def test_nothing_but_the_names_differs_from_the_example() -> None:
    files = renamed_files(Names("my_feature"), template_files())
    back = dict(zip(Names("my_feature").in_place_of_the_examples().values(), EXAMPLES_NAMES, strict=True))
    new_names = re.compile("|".join(back))
    again = {new_names.sub(lambda m: back[m[0]], p): new_names.sub(lambda m: back[m[0]], t) for p, t in files.items()}
    assert again == template_files()


def test_what_tools_leave_in_a_checkout_is_not_written(tmp_path: Path) -> None:
    for name in (".mypy_cache/3.11/x.json", "tests/__pycache__/t.pyc", "demo.egg-info/PKG-INFO", ".venv/bin/python"):
        (tmp_path / name).parent.mkdir(parents=True)
        (tmp_path / name).write_bytes(b"\xff")
    (tmp_path / ".gitignore").write_text("runs/\n")
    assert template_files(tmp_path) == {".gitignore": "runs/\n"}


def test_the_template_is_what_git_has() -> None:
    listed = ["git", "ls-files", "--cached", "--others", "--exclude-standard", "."]
    done = subprocess.run(listed, cwd=IN_CHECKOUT, capture_output=True, text=True, check=True)
    assert sorted(template_files(IN_CHECKOUT)) == sorted(done.stdout.split())


@pytest.mark.parametrize("name", ["x1", "demo", "a_name_as_long_as_there_may_be"])
def test_whatever_the_name_it_is_formatted_and_clean(name: str, command: Command) -> None:
    """Lines that a longer or a shorter name would wrap elsewhere, imports that it would sort elsewhere."""
    assert command("new", "plugin", name)[0] == 0
    for check in (["check", "--no-cache"], ["format", "--check", "--no-cache"]):
        done = subprocess.run([sys.executable, "-m", "ruff", *check, "."], capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stdout


@pytest.mark.parametrize(
    ("name", "said"),
    [
        (
            "My-Feature",
            "'My-Feature' cannot be a section; use up to 30 lower-case letters, digits and single underscor",
        ),
        ("optimizer.lion", "'optimizer.lion' cannot be a section"),
        ("two__words", "'two__words' cannot be a section"),
        ("../elsewhere", "'../elsewhere' cannot be a section"),
        ("x" * 31, "cannot be a section"),
        ("", "'' cannot be a section"),
        ("checkpoint", "'checkpoint' is a section of trustformers-pl already; choose another name"),
        ("optimizer", "'optimizer' is a section of trustformers-pl already"),
        ("trainer", "'trainer' is a section of recipes themselves already"),
        ("extends", "'extends' is a section of recipes themselves already"),
        ("callback", "'callback' would make a class Callback, a name that is in use; choose another name"),
        ("exception", "'exception' would make a class Exception, a name that is in use"),
        ("none", "'none' would make a class None, a name that is in use"),
    ],
)
def test_a_name_that_cannot_be_is_refused(name: str, said: str, command: Command, tmp_path: Path) -> None:
    code, _, err = command("new", "plugin", name)
    assert code == 2
    (line,) = err.splitlines()
    assert f"error: new plugin: {said}" in line or said in line
    assert not list(tmp_path.iterdir())


def test_a_section_of_another_package_is_refused(install: Callable[..., None], command: Command) -> None:
    install("strange-pack", "", trustformers_pl={"strange": "Feature", "flavour.mint": "Mint"})
    assert "'strange' is a section of strange-pack already" in command("new", "plugin", "strange")[2]
    assert "'flavour' is a section of strange-pack already" in command("new", "plugin", "flavour")[2]


def test_a_package_that_is_installed_is_not_replaced(install: Callable[..., None], command: Command) -> None:
    install("trustformers-pl-two-words", "", trustformers_pl={"other": "Feature"})
    said = "error: new plugin: trustformers-pl-two-words is installed already; choose another name\n"
    assert command("new", "plugin", "two_words")[::2] == (2, said)


def test_nothing_is_overwritten(command: Command) -> None:
    Path("trustformers-pl-demo").mkdir()
    code, _, err = command("new", "plugin", "demo")
    assert (code, list(Path("trustformers-pl-demo").iterdir())) == (2, [])
    assert err == (
        "error: new plugin: trustformers-pl-demo exists already; remove it, or choose another name or --path\n"
    )


def test_it_goes_where_it_is_told(command: Command) -> None:
    Path("mine").mkdir()
    assert command("new", "plugin", "demo", "--path", "mine")[0] == 0
    assert Path("mine/trustformers-pl-demo/pyproject.toml").exists()
    code, _, err = command("new", "plugin", "demo", "--path=nowhere")
    assert (code, err) == (2, "error: new plugin: nowhere is no folder; make it, or choose another --path\n")


def test_a_place_where_nothing_can_be_written_is_named(command: Command) -> None:
    code, _, err = command("new", "plugin", "demo", "--path=/proc")
    assert code == 2
    assert err.startswith("error: new plugin: /proc/trustformers-pl-demo cannot be written (")
    assert len(err.splitlines()) == 1


def test_options_that_it_does_not_have_are_refused(command: Command) -> None:
    code, _, err = command("new", "plugin", "demo", "--csv.file=x")
    assert (code, Path("trustformers-pl-demo").exists()) == (2, False)
    assert err == "error: new plugin: --csv.file=x is not understood; the options are NAME and --path DIR\n"
