"""What is written as a recipe is read back as it was: the expected value is the one that was written."""

from __future__ import annotations

from pathlib import Path

import pytest

from trustformers_pl.recipe.marked_yaml import read_file
from trustformers_pl.recipe.places import plain
from trustformers_pl.recipe.writing import as_yaml

WORDS = ["1e-3", "2E5", "yes", "on", "true", "null", "~", "", "1", "0x1f", "1.5", "1_000", ".inf", "2026-01-01", "a: b"]
NUMBERS = [1e-5, 1e22, 1.0, -0.1, float("inf"), 0, -7, 10**30, True, False, None]


@pytest.mark.parametrize("value", [*WORDS, *NUMBERS, [1e-3, "1e-3", [None]], {"a": {"b": [{"c": "1e3"}]}}, [], "ä\nb"])
def test_round_trip(value: object) -> None:
    Path("recipe.yaml").write_text(as_yaml({"key": value}), encoding="utf-8")
    read = plain(read_file(Path("recipe.yaml")))
    assert repr(read) == repr({"key": value})
