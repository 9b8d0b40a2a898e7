"""What a memory keeps: against the distributions that the papers prove, and against NumPy."""

from __future__ import annotations

import math
from collections import Counter
from typing import TYPE_CHECKING

import numpy as np
import pytest
import torch
from torch import Tensor

from trustformers_pl.continual.balancing import ClassBalancingReservoir
from trustformers_pl.continual.buffer import Buffer
from trustformers_pl.continual.memory import (
    affordable,
    balanced,
    drawn,
    herding,
    quotas,
    reservoir,
    row_bytes,
)
from trustformers_pl.errors import DataError, RefusedError

if TYPE_CHECKING:
    from pathlib import Path

ROW = {"x": torch.zeros(3, 2), "y": torch.zeros((), dtype=torch.int64), "flag": torch.zeros(2, dtype=torch.bool)}


def kept(total: int, capacity: int, seed: int) -> list[int]:
    last = {slot: number for number, slot in enumerate(reservoir(0, total, capacity, seed=seed).tolist())}
    return [number for slot, number in last.items() if slot != -1]


def test_a_reservoir_is_a_uniform_draw() -> None:
    """Each of 30 samples stays in 5 slots with probability 1/6: chi-square over 3,000 seeds, 29 degrees of freedom.

    Drawing without replacement makes its mean 29 * 25/29 = 25, and 60 more than four standard deviations away.
    """
    counts = Counter(number for seed in range(3000) for number in kept(30, 5, seed))
    assert sum(counts.values()) == 3000 * 5
    assert sum((counts[number] - 500) ** 2 / 500 for number in range(30)) < 60


def test_a_reservoir_follows_from_seed_and_number_alone() -> None:
    whole = reservoir(0, 40, 7, seed=3)
    assert torch.equal(torch.cat([reservoir(0, 11, 7, seed=3), reservoir(11, 29, 7, seed=3)]), whole)
    assert whole[:7].tolist() == [*range(7)]
    assert not torch.equal(reservoir(0, 40, 7, seed=4), whole)


def test_drawn_slots_do_not_repeat_before_all_were_drawn() -> None:
    assert sorted(drawn(10, 10, 1, 2).tolist()) == [*range(10)]
    assert Counter(drawn(4, 10, 1, 2).tolist()).most_common()[-1][1] == 2
    assert torch.equal(drawn(10, 4, 5, 6), drawn(10, 4, 5, 6))
    assert not torch.equal(drawn(100, 50, 5, 6), drawn(100, 50, 5, 7))
    assert len(drawn(0, 4, 1)) == 0
    assert len(drawn(4, 0, 1)) == 0


@pytest.mark.parametrize(
    ("available", "capacity", "wanted"),
    [
        ([5, 5, 5], 9, [3, 3, 3]),
        ([5, 5, 5], 10, [4, 3, 3]),
        ([1, 9, 9], 9, [1, 4, 4]),
        ([2, 1], 9, [2, 1]),
        ([], 3, []),
    ],
)
def test_quotas_are_as_equal_as_can_be(available: list[int], capacity: int, wanted: list[int]) -> None:
    assert quotas(available, capacity) == wanted


def test_a_balanced_draw() -> None:
    labels = torch.tensor([0] * 50 + [1] * 3 + [7] * 20)
    chosen = balanced(labels, 21, seed=0)
    assert Counter(labels[chosen].tolist()) == {0: 9, 1: 3, 7: 9}
    assert len(chosen.unique()) == 21
    assert torch.equal(chosen, balanced(labels, 21, seed=0))
    assert not torch.equal(chosen, balanced(labels, 21, seed=1))
    assert len(balanced(labels[:0], 21, seed=0)) == 0


def herding_by_numpy(features: np.ndarray, number: int) -> list[int]:
    """Algorithm 4 of iCaRL, each candidate's distance in a loop."""
    features = features / np.linalg.norm(features, axis=1, keepdims=True)
    mean, chosen = features.mean(0), list[int]()
    for _ in range(number):
        distances = [
            np.linalg.norm(mean - features[[*chosen, one]].mean(0)) if one not in chosen else math.inf
            for one in range(len(features))
        ]
        chosen.append(int(np.argmin(distances)))
    return chosen


def test_herding_is_algorithm_4_of_icarl() -> None:
    features = torch.randn(40, 6, generator=torch.Generator().manual_seed(0))
    wanted = herding_by_numpy(features.double().numpy(), 15)
    assert herding(features, 15).tolist() == wanted
    assert herding(features, 6).tolist() == wanted[:6]
    assert sorted(herding(features, 100).tolist()) == [*range(40)]


def test_a_class_balancing_reservoir_keeps_rare_classes() -> None:
    """100 to 1: once a rare class fits into its share all of it is kept."""
    labels = torch.randperm(2020, generator=torch.Generator().manual_seed(0)) % 101 // 100  # 1 for every 101st
    memory = ClassBalancingReservoir(60, seed=0)
    for label in labels.tolist():
        memory.place(label)
    assert Counter(memory.labels) == {0: 40, 1: 20}
    assert memory.seen == {0: 2000, 1: 20}


def test_within_a_class_the_balancing_reservoir_is_a_uniform_draw() -> None:
    """12 samples of class 0, then 3 of class 1, then 12 of class 0, in 6 slots of which 3 stay for class 0.

    Each of the 24 stays with probability 1/8; chi-square with 21 degrees of freedom as above, 45 is 3.7 deviations.
    """
    stream = [0] * 12 + [1] * 3 + [0] * 12
    counts: Counter[int] = Counter()
    for seed in range(2000):
        memory, held = ClassBalancingReservoir(6, seed=seed), dict[int, int]()
        for number, label in enumerate(stream):
            held[memory.place(label)] = number
        assert Counter(memory.labels) == {0: 3, 1: 3}
        counts.update(number for slot, number in held.items() if slot != -1 and stream[number] == 0)
    assert sum(counts.values()) == 6000
    assert sum((counts[n] - 250) ** 2 / 250 for n, label in enumerate(stream) if label == 0) < 45


def test_a_class_balancing_reservoir_goes_on_from_its_state() -> None:
    labels = (torch.randint(0, 4, (300,), generator=torch.Generator().manual_seed(0)) ** 2).tolist()
    whole, half = (ClassBalancingReservoir(20, seed=5) for _ in range(2))
    slots = [whole.place(label) for label in labels]
    for label in labels[:150]:
        half.place(label)
    resumed = ClassBalancingReservoir(20, seed=5)
    resumed.load_state_dict(half.state_dict())
    assert [resumed.place(label) for label in labels[150:]] == slots[150:]


def test_a_budget_is_exact() -> None:
    """6 floats, one int64 and two bools: 24 + 8 + 2 bytes."""
    assert row_bytes(ROW) == 34
    assert affordable(34 * 5 + 33, ROW) == 5
    with pytest.raises(RefusedError, match="replay: a sample takes 34 bytes and the budget is 33"):
        affordable(33, ROW)


def rows(*numbers: int) -> dict[str, Tensor]:
    values = torch.tensor(numbers)
    return {
        "x": values[:, None, None].expand(-1, 3, 2).float(),
        "y": values,
        "flag": (values % 2 == 0)[:, None].expand(-1, 2),
    }


@pytest.fixture(params=["memory", "disk"])
def buffer(request: pytest.FixtureRequest, tmp_path: Path) -> Buffer:
    return Buffer(4, ROW, tmp_path / "rows" if request.param == "disk" else None)


def test_a_buffer_gives_back_what_was_written(buffer: Buffer) -> None:
    buffer.write(torch.tensor([0, 1, -1, 1, 2]), rows(10, 11, 12, 13, 14))
    assert len(buffer) == 3
    found = buffer.read(torch.tensor([2, 0, 1, 1]))
    for name, wanted in rows(14, 10, 13, 13).items():
        assert torch.equal(found[name], wanted)
    found["x"].zero_()
    assert torch.equal(buffer.read(torch.tensor([2]))["x"], rows(14)["x"])


def test_a_buffer_goes_on_from_its_state(buffer: Buffer) -> None:
    buffer.write(torch.tensor([0, 1]), rows(1, 2))
    state = buffer.state_dict()
    buffer.write(torch.tensor([0, 2]), rows(8, 9))
    assert state["y"].tolist() == [1, 2]
    buffer.load_state_dict(state)
    assert buffer.read(torch.arange(len(buffer)))["y"].tolist() == [1, 2]
    buffer.load_state_dict({name: value[:0] for name, value in state.items()})
    assert len(buffer) == 0


@pytest.mark.parametrize(("slots", "message"), [([1], "do not follow"), ([0, 1, 2, 3, 4], "do not follow")])
def test_slots_are_taken_in_order(buffer: Buffer, slots: list[int], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        buffer.write(torch.tensor(slots), rows(*slots))
    with pytest.raises(ValueError, match="the buffer has"):
        buffer.write(torch.tensor([0]), {"x": rows(0)["x"]})
    with pytest.raises(IndexError, match="are not all among the 0 in use"):
        buffer.read(torch.tensor([0]))


def test_on_disk_it_takes_the_bytes_that_it_says(tmp_path: Path) -> None:
    stored = Buffer(100, ROW, tmp_path)
    files = [path.stat() for path in tmp_path.iterdir()]
    assert stored.bytes == 3400 == sum(file.st_size for file in files)
    assert sum(file.st_blocks for file in files) * 512 >= 3400
    stored.write(torch.tensor([0]), rows(7))
    again = torch.from_file(str(tmp_path / "y.rows"), size=100, dtype=torch.int64)
    assert again[0] == 7


def test_no_room_on_the_disk(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"x\.rows: .*choose another folder or a smaller budget"):
        Buffer(2**50, ROW, tmp_path)
