"""The generated dataclass of Trainer arguments is fresh."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from trustformers_pl.errors import RecipeError
from trustformers_pl.plan import make_plan
from trustformers_pl.recipe import Recipe

ROOT = Path(__file__).parent.parent.parent


def test_it_is_what_the_installed_lightning_says() -> None:
    tool = ROOT / "tools" / "trainer_arguments.py"
    done = subprocess.run([sys.executable, str(tool)], capture_output=True, text=True, check=True)
    assert done.stdout == (ROOT / "trustformers_pl" / "trainer_arguments.py").read_text(encoding="utf-8"), f"run {tool}"


@pytest.mark.parametrize(
    ("argument", "value"),
    [("max_steps", 3), ("devices", [0, 1]), ("devices", "auto"), ("limit_val_batches", 0.5), ("limit_val_batches", 2),
     ("max_time", {"hours": 1}), ("deterministic", "warn")],
)  # fmt: skip
def test_what_lightning_takes_a_recipe_takes(argument: str, value: object) -> None:
    assert make_plan(Recipe.from_mapping({"trainer": {argument: value}})).trainer == {argument: value}


@pytest.mark.parametrize(
    ("argument", "value", "said"),
    [
        ("max_steps", True, "expected an integer"),
        ("precision", "fp8", "expected one of 64, 32, 16"),
        ("max_epochs", 1.5, "expected an integer or null"),
        ("enable_model_summary", "no", "expected true or false or null"),
    ],
)
def test_what_it_does_not_take_is_refused(argument: str, value: object, said: str) -> None:
    with pytest.raises(RecipeError, match=f"Python: trainer.{argument} = .*: {said}"):
        make_plan(Recipe.from_mapping({"trainer": {argument: value}}))
