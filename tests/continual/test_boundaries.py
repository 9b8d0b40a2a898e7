"""Boundaries of tasks found in losses: streams whose boundaries are known, and losses of a network on five tasks."""

from __future__ import annotations

import math
from dataclasses import asdict

import numpy as np
import pytest
import torch
from digits_tasks import network, tasks

from trustformers_pl.continual.boundaries import Level, observed


def boundaries(stream: list[float]) -> list[int]:
    level, found = Level(), []
    for number, loss in enumerate(stream):
        level, new = observed(level, loss)
        if new:
            found.append(number)
    return found


@pytest.mark.parametrize("seed", range(5))
def test_a_shift_is_found_soon_and_a_level_with_outliers_never(seed: int) -> None:
    draw = np.random.default_rng(seed)
    level = 1 + 0.2 * draw.standard_normal(2000)
    level[draw.integers(30, 2000, 20)] += 3  # single outliers of 15 standard deviations
    assert boundaries(level.tolist()) == []
    (found,) = boundaries([*level, *(2 + 0.2 * draw.standard_normal(200))])
    assert 2000 < found <= 2010


def test_a_loss_that_falls_is_no_boundary_and_a_rise_from_it_is_one() -> None:
    draw = np.random.default_rng(0)
    steps = np.arange(600)
    falling = 0.1 + 2 * np.exp(-steps / 100) + 0.05 * draw.standard_normal(600)
    assert boundaries(falling.tolist()) == []
    found = boundaries([*falling, *falling, *falling])
    assert len(found) == 2
    assert all(0 <= one - wanted < 10 for one, wanted in zip(found, (600, 1200), strict=True))


def test_its_scale_does_not_matter_and_what_is_not_finite_is_left_out() -> None:
    stream = [*(1 + 0.1 * np.random.default_rng(3).standard_normal(100)), *[2.0] * 20]
    found = boundaries(stream)
    assert len(found) == 1
    assert boundaries([1000 * loss for loss in stream]) == found
    assert boundaries([*stream[:50], math.nan, math.inf, *stream[50:]]) == [one + 2 for one in found]
    assert boundaries([0.0] * 100) == []


def test_the_state_is_all_that_it_needs() -> None:
    stream = (1 + 0.1 * np.random.default_rng(4).standard_normal(60)).tolist()
    level = Level()
    for loss in stream[:30]:
        level, _ = observed(level, loss)
    again = Level(**asdict(level))
    for loss in stream[30:]:
        assert observed(level, loss) == observed(again, loss)
        level, again = observed(level, loss)[0], observed(again, loss)[0]


def test_the_tasks_of_the_digits_are_found() -> None:
    """One shared head of ten classes: each new pair of digits begins with a high loss."""
    model = network(0)
    optimizer = torch.optim.SGD(model.parameters(), 0.05)
    stream, wanted = [], []
    for number, (x, y, *_) in enumerate(tasks()):
        wanted.append(len(stream))
        order = torch.Generator().manual_seed(number)
        for indices in [i for _ in range(8) for i in torch.randperm(len(x), generator=order).split(16)]:
            optimizer.zero_grad()
            loss = torch.nn.functional.cross_entropy(model(x[indices]), y[indices])
            loss.backward()
            optimizer.step()
            stream.append(loss.item())
    found = boundaries(stream)
    assert len(found) == 4
    assert all(0 <= one - start < 10 for one, start in zip(found, wanted[1:], strict=True))
