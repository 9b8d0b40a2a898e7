"""What README and docs show is run: every recipe, every Python block, every command."""

from __future__ import annotations

import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from shown import BLOCK, PAGES, ROOT, blocks

from trustformers_pl.factory import assemble

if TYPE_CHECKING:
    from collections.abc import Callable

SMALL = [
    "--model.init_args.d_model=32",
    "--model.init_args.n_layers=1",
    "--trainer.max_steps=4",
    "--trainer.val_check_interval=2",
    "--trainer.limit_val_batches=2",
]


def run(code: str) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "PYTHONPATH": "", "OMP_NUM_THREADS": "1"}
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment, check=False)


def test_only_languages_that_are_tested_are_shown() -> None:
    shown = {match[1] for page in PAGES for match in BLOCK.finditer(page.read_text(encoding="utf-8"))}
    assert shown <= {"bash", "yaml", "python", "toml"}


@pytest.mark.parametrize(("page", "recipe"), blocks("yaml"))
def test_recipes_train(page: str, recipe: str) -> None:
    Path("recipe.yaml").write_text(recipe, encoding="utf-8")
    training = assemble("recipe.yaml", SMALL)
    training.fit()
    assert training.trainer.global_step == 4


@pytest.mark.parametrize(("page", "code"), [block for block in blocks("python") if "ShrinkPlugin" not in block[1]])
def test_python_runs(page: str, code: str) -> None:
    recipe = next(recipe for _, recipe in blocks("yaml"))
    Path("recipe.yaml").write_text(recipe, encoding="utf-8")
    done = run(code)
    assert done.returncode == 0, done.stderr


def test_the_plugin_of_the_guide_takes_part(install: Callable[..., None]) -> None:
    (source,) = (code for _, code in blocks("python") if "ShrinkPlugin" in code)
    ((_, toml),) = blocks("toml")
    import tomllib

    (points,) = tomllib.loads(toml)["project"]["entry-points"].values()
    install("shrink", source, trustformers_pl={name: value.partition(":")[2] for name, value in points.items()})
    recipe = next(recipe for _, recipe in blocks("yaml"))
    Path("recipe.yaml").write_text(recipe, encoding="utf-8")
    training = assemble("recipe.yaml", [*SMALL, "shrink={strength: 0.1}", "--trainer.log_every_n_steps=1"])
    training.fit()
    assert "mean_square" in Path("runs/recipe/metrics.csv").read_text(encoding="utf-8").splitlines()[0]


def commands() -> list[list[str]]:
    lines = [line for _, block in blocks("bash") for line in block.splitlines() if line.strip()]
    parts = [part.strip() for line in lines for part in line.split("&&")]
    return [shlex.split(part, comments=True) for part in parts]


def test_every_command_is_of_a_kind_that_is_tested() -> None:
    """Installing and testing are what `tests/docs/test_new_clone.py` does, in a clone."""
    kinds = {Path(words[0]).name for words in commands()}
    assert kinds <= {"trustformers-pl", "python3", "pip", "tox", "pytest"}


def test_the_commands_of_the_readme_work_one_after_the_other(tmp_path: Path) -> None:
    shutil.copytree(ROOT / "examples", "examples")
    ours = [words for words in commands() if Path(words[0]).name == "trustformers-pl"]
    assert [words[1] for words in ours] == ["fit", "generate", "validate", "explain", "plugins"]
    (tmp_path / "text").mkdir()
    (tmp_path / "text" / "a.txt").write_text("to be or not to be\n" * 4000)
    values = [*SMALL, "--data.init_args.folder=text", "--samples.max_new_tokens=5"]
    for _, *words in ours:
        more = values if words[0] != "plugins" else []
        done = subprocess.run(
            [sys.executable, "-m", "trustformers_pl.cli", *words, *more], capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stderr
        assert done.stdout


def test_links_lead_somewhere() -> None:
    for page in PAGES:
        for target in re.findall(r"\]\(([^)#]+)\)", page.read_text(encoding="utf-8")):
            if not target.startswith("http"):
                assert (page.parent / target).exists(), f"{page.name}: {target}"
