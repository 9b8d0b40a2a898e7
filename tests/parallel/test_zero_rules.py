"""Penalties and overflows on shards: what one rank sees of its part, all act on."""

from __future__ import annotations

import pytest
from equality import pool
from rules_job import anchored, anchored_by_torch, overflown
from zero_job import Case


@pytest.mark.parametrize(
    ("mode", "ranks"), [("zero 1", 2), ("zero 2", 4), ("zero 3", 2), ("ddp", 2), ("zero 2 + copies", 4)]
)
def test_a_penalty_on_shards_is_that_of_whole_weights(mode: str, ranks: int) -> None:
    """What is expected is torch's own gradient of the penalty, as a term of the loss of one process."""
    (expected,) = pool.run(1, anchored_by_torch, "gpt")
    for found in pool.run(ranks, anchored, Case("gpt", "AdamW", mode, ranks)):
        assert found == pytest.approx(expected, abs=1e-5)


@pytest.mark.parametrize("mode", ["zero 1", "zero 2", "zero 3"])
def test_an_overflow_in_one_ranks_shard_is_one_of_all(mode: str) -> None:
    """Half the scale and a step left out, on both ranks: torch's GradScaler with its back-off of a half."""
    first, second = pool.run(2, overflown, mode)
    assert first == second
    scales, skipped, _ = first
    assert skipped == 1
    assert scales == [1024.0, 1024.0, 512.0, 512.0, 512.0, 512.0, 512.0][: len(scales)]
