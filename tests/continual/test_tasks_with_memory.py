"""Replay and LwF under `tasks` on the digits: what they keep, crash trials, ranks and sharded weights."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import killed
import pytest
import torch
from continual_job import recipe

from trustformers_pl.errors import RefusedError
from trustformers_pl.factory import assemble
from trustformers_pl.testing import Ranks
from trustformers_pl.testing.on_ranks import train_on_rank
from trustformers_pl.testing.trial import differences, train

if TYPE_CHECKING:
    from pathlib import Path

REPLAYS = {"replay": {"capacity": 20, "batch": 4, "keep": "herding"}}
TEACHES: dict[str, Any] = {"lwf": {"alpha": 0.5}}
REMEMBERS: dict[str, Any] = {"lwf": {"alpha": 0.5, "cache": True}}


@pytest.mark.parametrize("sections", [REPLAYS, TEACHES, REMEMBERS], ids=["herding", "teacher", "cache"])
@pytest.mark.parametrize("step", [5, 6])
def test_killed_inside_a_task_or_at_its_boundary_it_ends_with_the_same_bits(
    sections: dict[str, Any], step: int, tmp_path: Path
) -> None:
    """3 steps a task and a checkpoint every two: boundaries are at steps 3, 6, 9, of which 6 is saved."""
    run = recipe({"steps": 3}, every=8, checkpoint={"every_n_steps": 2, "keep_last": 50}, **sections)
    whole, _ = killed.resumed(run, tmp_path, step)
    assert whole.evidence[next(iter(sections))]


def test_a_memory_has_equal_shares_of_all_classes(tmp_path: Path) -> None:
    (replay,) = train(recipe({"steps": 3}, every=8, **REPLAYS), tmp_path).run.callbacks("Replay")
    assert torch.bincount(replay.store.read(torch.arange(20))["1"]).tolist() == [2] * 10


def test_a_cache_says_what_the_teacher_says(tmp_path: Path) -> None:
    """In evaluation mode both are the same function; a cached answer is of another batch, so equal up to rounding."""
    taught, remembered = (
        train(recipe({"steps": 3}, every=8, **sections), tmp_path / name)
        for name, sections in {"teacher": TEACHES, "cache": REMEMBERS}.items()
    )
    one, other = taught.run.module.state_dict(), remembered.run.module.state_dict()
    for name, value in one.items():
        torch.testing.assert_close(value, other[name], rtol=1e-5, atol=1e-6)


def forgetting(tmp_path: Path, name: str, **sections: Any) -> float:
    run = train(recipe({"epochs": 10, "scenario": "class"}, every=3, **sections), tmp_path / name).run
    return float(run.trainer.callback_metrics["average_accuracy"])


def test_what_is_replayed_is_not_forgotten(tmp_path: Path) -> None:
    """Class-incremental digits: without anything a network knows the last two of ten classes."""
    plain = forgetting(tmp_path, "plain")
    replayed = forgetting(tmp_path, "replay", replay={"capacity": 200, "batch": 16})
    assert plain < 0.4
    assert replayed > 0.7


@pytest.mark.parametrize("stage", [1, 3])
def test_answers_can_be_kept_where_weights_are_sharded(stage: int, tmp_path: Path) -> None:
    """Both ranks end with the same weights, and compare as many batches as one process does."""

    def on(devices: int, **more: Any) -> dict[str, Any]:
        run = recipe({"steps": 3}, every=8, **REMEMBERS, **more)
        run["model"] = {"class_path": "continual_job.Network"}
        run["data"] = {"class_path": "continual_job.Digits", "init_args": {"every": 8, "batch_size": 16 // devices}}
        run["trainer"] = {**run["trainer"], "devices": devices}
        return run

    alone = Ranks().run(1, train_on_rank, on(1), str(tmp_path / "alone"), ())[0]
    ranks = Ranks().run(2, train_on_rank, on(2, zero={"stage": stage}), str(tmp_path / "ranks"), ())
    assert not [n for n in differences(ranks[0].state, ranks[1].state) if n.startswith("weights.")]
    assert ranks[0].evidence["lwf"] == alone.evidence["lwf"]


@pytest.mark.parametrize(
    ("sections", "says"),
    [
        ({"lwf": {}, "zero": {"stage": 3}}, "whole teacher"),
        ({**REMEMBERS, "replay": {}}, "lwf.cache has no answers to samples of replay"),
        ({"replay": {}, "der": {}}, "memory"),
    ],
)
def test_what_cannot_live_together_is_refused_in_one_line(sections: dict[str, Any], says: str) -> None:
    with pytest.raises(RefusedError, match=says) as raised:
        assemble(recipe(**sections))
    assert "\n" not in str(raised.value) or "der" in sections
