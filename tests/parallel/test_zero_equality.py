"""Sharded training ends with the weights of one process: 20 steps, two micro-batches each, clipped.

The expected weights are torch's own for float32 (a plain loop over whole batches); for 16 bits those of one process with
the same engine, whose rounding is another on ranks.
"""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from equality import BOUNDS, CASES, HALF, WHOLE, difference, label, pool
from zero_job import MODES, Case, train_by_hand

PAGE = Path(__file__).parents[2] / "docs/features/zero.md"


@pytest.mark.parametrize("case", [c for c in WHOLE if c.ranks == 2], ids=lambda case: " ".join(label(case)))
def test_two_ranks_train_as_torch_does_in_one_process(case: Case) -> None:
    assert difference(case) <= BOUNDS[case.precision]


@pytest.mark.parametrize("case", [c for c in WHOLE if c.ranks == 4], ids=lambda case: " ".join(label(case)))
def test_four_ranks_train_as_torch_does_in_one_process(case: Case) -> None:
    assert difference(case) <= BOUNDS[case.precision]


@pytest.mark.parametrize("case", HALF, ids=lambda case: " ".join(label(case)))
def test_sixteen_bits_on_ranks_stay_near_those_of_one_process(case: Case) -> None:
    assert difference(case) <= BOUNDS[case.precision]


@pytest.mark.parametrize("mode", [mode for mode in MODES if "," in mode])
def test_every_option_computes_the_same(mode: str) -> None:
    assert difference(Case("gpt", "AdamW", mode, 2)) <= BOUNDS["fp32 O0"]


@pytest.mark.parametrize("mode", ["ddp", "zero 1", "zero 2", "zero 3"])
def test_a_module_that_optimizes_by_itself_computes_the_same(mode: str) -> None:
    """What is expected is the same module in one process."""
    (expected,) = pool.run(1, train_by_hand, Case("manual", "AdamW", "one process", 1))
    for found in pool.run(2, train_by_hand, Case("manual", "AdamW", mode, 2)):
        assert found == pytest.approx(expected, abs=1e-5)


def test_the_table_in_the_docs_has_every_case() -> None:
    rows = re.findall(
        r"^\| (\w+) \| (\w+) \| ([\w +]+) \| (\w+ O\d) \| (\d) \| (\S+) \| (\S+) \|$", PAGE.read_text(), re.M
    )
    assert [tuple(found[:5]) for found in rows] == [label(case) for case in CASES]
    assert all(float(found) <= float(bound) for *_, found, bound in rows)
