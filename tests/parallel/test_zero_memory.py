"""Bytes of weights, gradients and optimizer state, by torch's memory tracker, are those of the ZeRO paper's formula."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from memory import CASES, formula, measured

PAGE = Path(__file__).parents[2] / "docs/features/zero.md"


@pytest.mark.parametrize(("mode", "ranks", "precision"), CASES)
def test_a_rank_holds_what_the_formula_says(mode: str, ranks: int, precision: str) -> None:
    held = measured(mode, ranks, precision)
    assert (held.weights, held.gradients, held.state) == pytest.approx(formula(mode, ranks, precision), rel=0.05)


def test_the_table_in_the_docs_has_every_case() -> None:
    number = r"([\d.]+)"
    pattern = rf"^\| ([\w ]+) \| (\w+ O\d) \| (\d) \| {number} \| {number} \| {number} \| ([\d. +]+) \| {number} \|$"
    rows = re.findall(pattern, PAGE.read_text(), re.M)
    assert [(mode, int(ranks), precision) for mode, precision, ranks, *_ in rows] == CASES
    for mode, precision, ranks, weights, gradients, state, _, _ in rows:
        shown = float(weights), float(gradients), float(state)
        assert shown == pytest.approx(formula(mode, int(ranks), precision), rel=0.05)
