"""What README and docs show is followed, page by page and from top to bottom, in a folder of its own.

A block whose first line is a comment with a file's name is that file. Other Python and bash blocks are run, outputs in
console blocks are compared, and every recipe or piece of one trains a few steps.
"""

from __future__ import annotations

import os
import re
import shutil
import sys
import tomllib
from pathlib import Path

import pytest
from following import (
    ELSEWHERE,
    bash,
    put_the_command_in,
    python,
    same_output,
    sessions,
    to_be_run,
    words,
)
from ranks import ranks_left_behind
from shown import AT_THE_ROOT, PAGES, ROOT, Block, blocks, blocks_of, first_recipe

from trustformers_pl.factory import assemble

SMALL_MODEL = {"model.init_args.d_model": "32", "model.init_args.n_layers": "1"}
FEW_STEPS = {"trainer.max_steps": "4", "trainer.val_check_interval": "2", "trainer.limit_val_batches": "2"}
# The README's commands train the main job, which takes minutes; all other pages show what takes seconds.
MAIN_JOB = {**SMALL_MODEL, **FEW_STEPS, "samples.max_new_tokens": "5"}
SHORTENED = {f"TFPL_{key.replace('.', '__').upper()}": value for key, value in MAIN_JOB.items()}


def followed() -> list[Path]:
    return [page for page in PAGES if blocks_of(page)]


@pytest.fixture(params=followed(), ids=lambda page: str(page.relative_to(ROOT)))
def page(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A page, with the current folder as its reader has it: a clone's examples, the command, and `recipe.yaml`."""
    shutil.copytree(ROOT / "examples", "examples")
    put_the_command_in(Path.cwd())
    Path("recipe.yaml").write_text(first_recipe(), encoding="utf-8")
    monkeypatch.syspath_prepend(str(Path.cwd()))
    path: Path = request.param
    yield path
    for block in blocks_of(path):
        sys.modules.pop(block.name.removesuffix(".py"), None)


def test_a_page_does_what_it_says(page: Path) -> None:
    for block in blocks_of(page):
        if block.name:
            Path(block.name).write_text(block.text, encoding="utf-8")
        if block.name == "pyproject.toml":
            pretend_to_install(block)
        follow(block)


def follow(block: Block) -> None:
    if block.language == "yaml":
        with ranks_left_behind():
            train(block)
    elif block.name.startswith("test_"):
        # Beside each of our own features, whose number grows, is what the pair test is for.
        command = f'"{sys.executable}" -m pytest -q {block.name} -k "not beside"'
        done = bash(command, PYTHONPATH=os.pathsep.join(sys.path))
        assert done.returncode == 0, done.stdout
    elif block.language == "python" and not block.name:
        with ranks_left_behind():
            python(block)
    elif block.language == "bash":
        done = bash(to_be_run(block.text), **(SHORTENED if block.page == "README.md" else {}))
        assert done.returncode == 0, done.stdout
    elif block.language == "console":
        for command, shown in sessions(block.text):
            printed = bash(command).stdout
            assert same_output(shown, printed), printed


def train(block: Block) -> None:
    """A whole recipe as it is, a piece of one laid over `recipe.yaml`; both with a small model and for few steps."""
    Path("shown.yaml").write_text(("extends: recipe.yaml\n" if block.is_piece else "") + block.text, encoding="utf-8")
    is_gpt = block.is_piece or "extends:" in block.text or "GPT" in block.text
    values = {**FEW_STEPS, **(SMALL_MODEL if is_gpt else {}), "trainer.log_every_n_steps": "1"}
    folder = f"trainer.default_root_dir=runs/shown-{len(list(Path('runs').glob('shown-*')))}"
    training = assemble("shown.yaml", [folder, *(f"{key}={value}" for key, value in values.items())])
    training.fit()
    assert training.trainer.global_step == 4
    silent = [name for name, evidence in training.probe().items() if evidence is None]
    assert not silent, f"features without effect: {silent}"


def pretend_to_install(pyproject: Block) -> None:
    """The current folder becomes an installed distribution: its metadata beside its modules."""
    project = tomllib.loads(pyproject.text)["project"]
    info = Path(f"{project['name']}-{project['version']}.dist-info")
    info.mkdir()
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {project['name']}\nVersion: {project['version']}\n")
    groups = {g: "\n".join(f"{k} = {v}" for k, v in points.items()) for g, points in project["entry-points"].items()}
    (info / "entry_points.txt").write_text("\n".join(f"[{group}]\n{points}" for group, points in groups.items()))


def test_only_languages_that_are_tested_are_shown() -> None:
    shown = {block.language for page in PAGES for block in blocks_of(page)}
    assert shown <= {"bash", "console", "yaml", "python", "toml"}


def test_every_command_is_run_here_or_in_a_clone() -> None:
    parts = [
        part for block in blocks("bash") for line in block.text.splitlines() for part in re.split(r"&&|\|\|", line)
    ]
    kinds = {Path(words(part)[0]).name for part in parts if words(part)}
    assert {kind for kind in kinds if "=" not in kind} <= {*ELSEWHERE, "trustformers-pl", "timeout", "cmp", "echo"}


def test_the_quickstart_kills_its_run() -> None:
    """Were the time limit gone from the page, the comparison of bits would prove nothing."""
    scripts = [block.text for block in blocks_of(ROOT / "docs" / "quickstart.md") if block.language == "bash"]
    (killing,) = (script for script in scripts if "cmp" in script)
    assert "timeout --signal=KILL" in killing


def test_links_of_pages_at_the_root_lead_somewhere() -> None:
    """Those in `docs/` are checked by the strict build of the site."""
    for page in AT_THE_ROOT:
        for target in re.findall(r"\]\(([^)#]+)(?:#[^)]*)?\)", page.read_text(encoding="utf-8")):
            assert target.startswith("http") or (page.parent / target).exists(), f"{page.name}: {target}"
