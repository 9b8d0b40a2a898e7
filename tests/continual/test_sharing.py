"""A memory that goes on with another number of ranks: still a uniform draw, still balanced, still the first choices."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, Any

import pytest
import torch
from continual_job import recipe

from trustformers_pl.continual.balancing import ClassBalancingReservoir
from trustformers_pl.continual.keeping import UniformDraw
from trustformers_pl.continual.sharing import of_balanced_draws, of_exemplars, of_uniform_draws, share, together
from trustformers_pl.stateful import Scope, State
from trustformers_pl.testing import Ranks
from trustformers_pl.testing.on_ranks import train_on_rank
from trustformers_pl.testing.trial import train

if TYPE_CHECKING:
    from pathlib import Path

Memory = tuple[UniformDraw, dict[int, int]]


def feed(memory: Memory, numbers: range) -> None:
    """Slot -> number of the sample in it."""
    rule, held = memory
    for slot, number in zip(rule.place({}, len(numbers)).tolist(), numbers, strict=True):
        if slot >= 0:
            held[slot] = number


def resumed(memories: list[Memory], ranks: int, capacity: int, seed: int) -> list[Memory]:
    """On so many ranks, of which all keep `capacity`."""
    rows = [held[slot] for _, held in memories for slot in range(len(held))]
    found = []
    for rank in range(ranks):
        own, state = of_uniform_draws(
            len(rows), [rule.seen for rule, _ in memories], capacity // ranks, rank, ranks, seed
        )
        rule = UniformDraw(capacity // ranks, seed=seed * 100 + 10 * ranks + rank)
        rule.load_state_dict(state)
        found.append((rule, {slot: rows[index] for slot, index in enumerate(own.tolist())}))
    return found


def test_from_two_ranks_to_one_to_four_it_stays_a_uniform_draw() -> None:
    """12 slots, 24 samples on 2 ranks, 12 more on one, 24 more on 4: each of 60 stays with probability 1/5.

    Chi-square with 59 degrees of freedom has mean 59 and deviation 11: below 100 but once in 1,600 such tests.
    """
    counts: Counter[int] = Counter()
    for seed in range(1500):
        two = [(UniformDraw(6, seed=1_000_000 + 2 * seed + rank), dict[int, int]()) for rank in range(2)]
        for rank, memory in enumerate(two):
            feed(memory, range(12 * rank, 12 * rank + 12))
        (one,) = resumed(two, 1, 12, seed)
        assert len(one[1]) == 12
        feed(one, range(24, 36))
        four = resumed([one], 4, 12, seed)
        for rank, memory in enumerate(four):
            feed(memory, range(36 + 6 * rank, 42 + 6 * rank))
            counts.update(memory[1].values())
            assert len(memory[1]) == 3
    assert sum(counts.values()) == 1500 * 12
    assert sum((counts[number] - 300) ** 2 / 300 for number in range(60)) < 100


@pytest.mark.parametrize("ranks", [1, 3])
def test_what_was_never_full_loses_nothing(ranks: int) -> None:
    two = [(UniformDraw(10, seed=rank), dict[int, int]()) for rank in range(2)]
    feed(two[0], range(5))
    feed(two[1], range(5, 9))
    found = resumed(two, ranks, 20 if ranks == 1 else 21, 0)
    assert sorted(number for _, held in found for number in held.values()) == list(range(9))
    assert sum(rule.seen for rule, _ in found) == 9
    assert found[0][0].capacity == (20 if ranks == 1 else 7)


def test_slots_that_were_not_there_stay_empty() -> None:
    """7 slots for two ranks are 3 each; one rank has 7, but of 20 samples only 6 were kept."""
    two = [(UniformDraw(3, seed=rank), dict[int, int]()) for rank in range(2)]
    for rank, memory in enumerate(two):
        feed(memory, range(10 * rank, 10 * rank + 10))
    (one,) = resumed(two, 1, 7, 0)
    assert (len(one[1]), one[0].capacity, one[0].seen) == (6, 6, 20)
    feed(one, range(20, 90))
    assert len(one[1]) == 6


@pytest.mark.parametrize("ranks", [1, 3])
def test_classes_stay_balanced(ranks: int) -> None:
    """Two ranks kept 6 of each of 4 classes together; each new rank keeps as many of each class, give or take one."""
    states, labels = [], []
    for seed in range(2):
        memory = ClassBalancingReservoir(12, seed=seed)
        for number in range(200):
            memory.place(number % 4)
        states.append(memory.state_dict())
        labels += memory.labels
    rows = {"x": torch.arange(24), "labels": torch.tensor(labels)}
    kept: list[int] = []
    for rank in range(ranks):
        own, state = of_balanced_draws(rows, states, 24 // ranks, rank, ranks, 0)
        kept += own.tolist()
        assert state["labels"] == rows["labels"][own].tolist()
        counts = Counter(state["labels"])
        assert max(counts.values()) - min(counts.values()) <= 1
        memory = ClassBalancingReservoir(24 // ranks, seed=7)
        memory.load_state_dict(state)
        assert all(memory.seen[label] >= counts[label] for label in range(4))
        assert all(-1 <= memory.place(number % 4) < 24 // ranks for number in range(50))
    assert sorted(kept) == list(range(24))


def test_exemplars_keep_the_order_of_their_choice() -> None:
    """Rows 0 to 4 are of the first rank, 5 to 9 of the second; the first choices of both come first."""
    groups = [[[0, 0, 3], [0, 1, 2]], [[0, 0, 2], [0, 1, 3]]]
    own, found = of_exemplars(groups, 10, 0, 1)
    assert own.tolist() == [0, 5, 1, 6, 2, 3, 7, 4, 8, 9]
    assert found == [[0, 0, 5], [0, 1, 5]]
    own, found = of_exemplars(groups, 4, 0, 1)
    assert own.tolist() == [0, 5, 3, 7]
    parts = [of_exemplars([[[0, 0, 5], [1, 1, 5]]], 5, rank, 2)[0].tolist() for rank in range(2)]
    assert parts == [[0, 2, 4, 5, 7], [1, 3, 6, 8]]


def test_shares_add_up() -> None:
    assert [sum(share(total, rank, 3) for rank in range(3)) for total in range(10)] == list(range(10))
    assert together([{}, {"x": torch.zeros(0)}]) == {}


def test_a_memory_without_a_sample_goes_on_with_none(tmp_path: Path) -> None:
    run = train(recipe(every=40, replay={"capacity": 6, "batch": 2}), tmp_path).run
    (replay,) = run.callbacks("Replay")
    nothing = State({"rows": {}, "rule": None, "groups": [], "pending": [], "replayed": 0}, 1, Scope.RANK)
    replay.load_all_ranks([nothing, nothing], 0, 1)
    assert replay.store.filled == 0


def on(ranks: int, steps: int, **more: Any) -> dict[str, Any]:
    run = recipe({"scenario": "class", "steps": 3, "measure": False}, every=8, **more)
    run["checkpoint"] = {"every_n_steps": 3, "keep_last": 2}
    run["data"] = {"class_path": "continual_job.Digits", "init_args": {"every": 8, "batch_size": 16 // ranks}}
    run["trainer"] = {**run["trainer"], "devices": ranks, "max_steps": steps}
    return run | ({"ddp": {}} if ranks > 1 else {})


@pytest.mark.parametrize("section", [{"where": "disk"}, {"keep": "balanced"}, {"keep": "herding"}], ids=str)
def test_a_run_goes_on_from_two_ranks_on_one(section: dict[str, Any], tmp_path: Path) -> None:
    """Room for all: what both ranks saw in three steps of 16, and what one process saw in three more."""
    replays = {"replay": {"capacity": 200, "batch": 4, **section}}
    folder = tmp_path / "run"
    Ranks().run(2, train_on_rank, on(2, 3, **replays), str(folder), ())
    first = train(on(1, 6, **replays), folder, resume="force")
    (replay,) = first.run.callbacks("Replay")
    (tasks,) = first.run.callbacks("Tasks")
    kept = replay.store.read(torch.arange(replay.store.filled))
    if section.get("keep") == "herding":  # the whole first two tasks
        wanted = torch.cat([tasks.indices(0), tasks.indices(1)])
        assert replay.store.filled == len(wanted)
        assert sorted(kept["1"].tolist()) == sorted(tasks.loader.dataset.tensors[1][wanted].tolist())
    else:
        assert replay.store.filled == 96
        assert set(kept["1"].tolist()) == {0, 1, 2, 3}
    assert replay.replayed >= 12
