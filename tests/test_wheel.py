"""What would be published: the wheel, built from the sdist, installed alone and used from an empty folder."""

from __future__ import annotations

import re
import shutil
import tarfile
import zipfile
from pathlib import Path

import pytest
from packaging.metadata import Metadata
from wheels import ROOT, Installation, built_by_way_of_the_sdist

from trustformers_pl.cli.plugin_template import IN_CHECKOUT, template_files

FEW = [
    "--trainer.max_steps=4",
    "--trainer.val_check_interval=2",
    "--trainer.limit_val_batches=2",
    "--samples.max_new_tokens=10",
]


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    return built_by_way_of_the_sdist(tmp_path_factory.mktemp("built"))


@pytest.fixture(scope="module")
def installation(built: tuple[Path, Path], tmp_path_factory: pytest.TempPathFactory) -> Installation:
    made = Installation(tmp_path_factory.mktemp("installed") / "venv")
    made.install(built[1])
    return made


def test_the_wheel_holds_the_package_and_nothing_else(built: tuple[Path, Path]) -> None:
    with zipfile.ZipFile(built[1]) as wheel:
        names = set(wheel.namelist())
    assert {name.partition("/")[0].partition("-")[0] for name in names} == {"trustformers_pl"}
    files = (path for path in (ROOT / "trustformers_pl").rglob("*") if path.is_file())
    package = {str(path.relative_to(ROOT)) for path in files if path.suffix != ".pyc"}
    templates = {f"trustformers_pl/cli/templates/plugin/{name}" for name in template_files(IN_CHECKOUT)}
    inside = {name for name in names if name.startswith("trustformers_pl/")}
    assert "trustformers_pl/py.typed" in inside
    assert inside == package | templates


def test_the_sdist_holds_what_the_tests_need(built: tuple[Path, Path]) -> None:
    with tarfile.open(built[0]) as sdist:
        tops = {name.split("/")[1] for name in sdist.getnames()}
    assert tops >= {"trustformers_pl", "plugins", "tests", "examples", "docs", "benchmarks", "tox.ini", "LICENSE-MIT"}


def test_the_metadata_is_valid(built: tuple[Path, Path]) -> None:
    """As `packaging` reads the core metadata specification, which is what the package index checks on upload."""
    with zipfile.ZipFile(built[1]) as wheel:
        (path,) = (name for name in wheel.namelist() if name.endswith(".dist-info/METADATA"))
        metadata = Metadata.from_email(wheel.read(path), validate=True)
    assert metadata.name == "trustformers-pl"
    assert metadata.description_content_type == "text/markdown"
    assert metadata.license_expression == "MIT OR Apache-2.0"
    assert metadata.license_files == ["LICENSE-APACHE", "LICENSE-MIT"]
    assert metadata.description.startswith("# trustformers_pl")  # type: ignore[union-attr]


def test_the_installed_command_trains_the_main_job_in_an_empty_folder(installation: Installation) -> None:
    where = "import trustformers_pl; print(trustformers_pl.__file__)"
    assert Path(installation.command("-c", where, name="python")).is_relative_to(installation.folder)
    shutil.copy(ROOT / "examples" / "lm" / "lm.yaml", "lm.yaml")
    assert "bits/byte" in installation.command("fit", "lm.yaml", *FEW)
    assert sorted(path.name for path in Path("runs/lm/checkpoints").iterdir()) == ["step-00000004"]
    assert (Path("runs/lm") / "report.md").read_text().startswith("# lm\n\n4 optimizer steps.")


def test_the_installed_command_says_what_there_is(installation: Installation) -> None:
    shutil.copy(ROOT / "examples" / "lm" / "lm.yaml", "lm.yaml")
    assert "list the features that are installed" in installation.command("--help")
    listed = installation.command("plugins")
    assert "optimizer.adamw" in listed
    assert "broken" not in listed
    assert "ByteText(" in installation.command("explain", "lm.yaml")


@pytest.fixture(scope="module")
def new_plugin(installation: Installation, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The package that `new plugin demo` writes, installed, and beside it the example that it is a copy of."""
    folder = tmp_path_factory.mktemp("mine")
    installation.command("new", "plugin", "demo", "--path", str(folder))
    installation.install(folder / "trustformers-pl-demo", IN_CHECKOUT)
    return folder / "trustformers-pl-demo"


def test_a_new_plugin_is_found_beside_the_example_and_takes_part_in_the_main_job(
    installation: Installation, new_plugin: Path
) -> None:
    listed = {line.split()[0]: line.split()[-2] for line in installation.command("plugins").splitlines()}
    assert (listed["demo"], listed["gradient_noise"]) == ("trustformers-pl-demo", "trustformers-pl-example")
    shutil.copy(ROOT / "examples" / "lm" / "lm.yaml", "lm.yaml")
    Path("text").mkdir()
    Path("text/a.txt").write_text("to be or not to be\n" * 4000)
    small = ["--model.init_args.n_layers=1", "--data.init_args.folder=text", "--no-samples"]
    sections = ["--demo={eta: 1.0e-6}", "--gradient_noise={eta: 1.0e-6}"]
    code = f"""
import trustformers_pl as tfpl
run = tfpl.assemble("lm.yaml", {[*FEW[:-1], *small, *sections]})
run.fit()
print(run.probe()["demo"], "and", run.probe()["gradient_noise"], "in", run.trainer.global_step, "steps")
"""
    # By hand: the variance of step 3 is 1e-6 / 4^0.55 = 0.000683^2.
    noise = "noise of standard deviation 0.000683"
    assert installation.command("-c", code, name="python").splitlines()[-1] == f"{noise} and {noise} in 4 steps"


def test_a_new_plugin_passes_its_own_tests(installation: Installation, new_plugin: Path) -> None:
    """Among them the conformance kit, as pytest finds it in the wheel."""
    options = ["-q", "-p", "no:cacheprovider", "-p", "no:xdist"]
    told = installation.command("-m", "pytest", *options, str(new_plugin), name="python")
    assert re.search(r"^\d{2} passed", told, re.MULTILINE)
    assert "skipped" not in told


@pytest.mark.slow
def test_a_new_plugin_is_typed(installation: Installation, new_plugin: Path) -> None:
    command = ["-m", "mypy", "--strict", "--cache-dir=.mypy_cache", str(new_plugin)]
    assert installation.command(*command, name="python").startswith("Success: no issues found in 7 source files")
