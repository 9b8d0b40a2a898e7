"""Schedules against torch's own, and at their ends."""

from __future__ import annotations

import math
import pickle

import pytest
import torch
from torch.optim.lr_scheduler import CosineAnnealingLR, LambdaLR, LinearLR, SequentialLR

from trustformers_pl.factory import assemble
from trustformers_pl.optim import lr_lambda


def rates(schedule: torch.optim.lr_scheduler.LRScheduler, steps: int) -> list[float]:
    found = []
    for _ in range(steps):
        found.append(schedule.get_last_lr()[0])
        schedule.optimizer.step()
        schedule.step()
    return found


def sgd() -> torch.optim.SGD:
    return torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=0.5)


@pytest.mark.parametrize("min_ratio", [0.0, 0.1])
def test_cosine_is_torchs_cosine_after_torchs_warm_up(min_ratio: float) -> None:
    ours = rates(LambdaLR(sgd(), lr_lambda("cosine", warmup_steps=10, total_steps=50, min_ratio=min_ratio)), 51)
    optimizer = sgd()
    warm = LinearLR(optimizer, start_factor=1e-12, total_iters=10)
    cosine = CosineAnnealingLR(optimizer, T_max=40, eta_min=0.5 * min_ratio)
    expected = rates(SequentialLR(optimizer, [warm, cosine], milestones=[10]), 51)
    assert ours == pytest.approx(expected, abs=1e-9)


def test_the_ends() -> None:
    factor = lr_lambda("cosine", warmup_steps=4, total_steps=20, min_ratio=0.2)
    assert [factor(step) for step in (0, 1, 4, 12)] == pytest.approx([0.0, 0.25, 1.0, 0.6])
    assert [factor(step) for step in (20, 21, 1000)] == pytest.approx([0.2, 0.2, 0.2])  # it does not rise again
    assert lr_lambda("cosine", warmup_steps=0, total_steps=10)(0) == 1.0
    assert lr_lambda("cosine", warmup_steps=10, total_steps=5)(9) == 0.9
    assert math.isfinite(lr_lambda("cosine", warmup_steps=5, total_steps=5)(5))


def test_an_unknown_name_is_told_the_nearest() -> None:
    with pytest.raises(ValueError, match="no schedule 'cosin'; did you mean 'cosine'"):
        lr_lambda("cosin", warmup_steps=0, total_steps=1)


def test_from_a_recipe_the_length_is_that_of_the_run() -> None:
    run = assemble(
        {
            "model": {"class_path": "tiny.Composable"},
            "data": {"class_path": "tiny.Data"},
            "trainer": {"max_epochs": 2, "accelerator": "cpu"},
            "optimizer": {"name": "adamw", "lr": 1.0},
            "schedule": {"name": "cosine", "warmup_steps": 4},
        }
    )
    pickle.dumps(run.module)  # before and after: what the run adds must not stand in the way of spawned processes
    run.fit()
    scheduler = run.trainer.lr_scheduler_configs[0].scheduler
    assert scheduler.last_epoch == 16  # type: ignore[union-attr]
    assert scheduler.get_last_lr()[0] == pytest.approx(0.0, abs=1e-12)  # type: ignore[union-attr]
