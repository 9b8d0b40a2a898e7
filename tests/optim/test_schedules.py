"""Schedules against torch's own and transformers' formulas, and at their ends."""

from __future__ import annotations

import math
import pickle
from typing import TYPE_CHECKING, Any

import pytest
import torch
from lightning import Callback
from torch.optim.lr_scheduler import (
    CosineAnnealingLR,
    ExponentialLR,
    LambdaLR,
    LinearLR,
    PolynomialLR,
    SequentialLR,
    StepLR,
)

from trustformers_pl.errors import RecipeError, RefusedError
from trustformers_pl.factory import assemble
from trustformers_pl.optim import get_lr, lr_lambda
from trustformers_pl.optim.decays import DECAYS

if TYPE_CHECKING:
    from collections.abc import Callable


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


def _transformers(name: str, step: int, warmup: int, total: int, **shape: Any) -> float:
    """The formulas of transformers' `optimization.py` (4.57), lambdas of `get_*_schedule_with_warmup` and `get_wsd_schedule`."""
    if step < warmup:
        return float(step) / float(max(1, warmup))
    progress = float(step - warmup) / float(max(1, total - warmup))
    if name == "constant":
        return 1.0
    if name == "linear":
        return max(0.0, float(total - step) / float(max(1, total - warmup)))
    if name == "cosine":
        return max(0.0, 0.5 * (1.0 + math.cos(math.pi * 0.5 * 2.0 * progress)))
    if name == "polynomial":
        lr_init, lr_end = 1.0, shape["min_ratio"]
        remaining = 1 - (step - warmup) / (total - warmup)
        return (lr_end if step > total else (lr_init - lr_end) * remaining ** shape["power"] + lr_end) / lr_init
    decay_steps, floor = shape["decay_steps"], shape["min_ratio"]
    stable = total - warmup - decay_steps
    if step < warmup + stable:
        return 1.0
    if step >= warmup + stable + decay_steps:
        return floor
    progress = float(step - warmup - stable) / float(max(1, decay_steps))
    kinds = {
        "linear": 1.0 - progress,
        "cosine": 0.5 * (1.0 + math.cos(math.pi * 0.5 * 2.0 * progress)),
        "1-sqrt": 1.0 - math.sqrt(progress),
    }
    return max(0.0, kinds[shape["decay_type"]] * (1.0 - floor) + floor)


@pytest.mark.parametrize(
    ("name", "shape"),
    [
        ("constant", {}),
        ("linear", {}),
        ("cosine", {}),
        ("polynomial", {"power": 2.0, "min_ratio": 0.1}),
        ("polynomial", {"power": 0.5, "min_ratio": 0.0}),
        *(
            ("wsd", {"decay_steps": 15, "min_ratio": 0.1, "decay_type": kind})
            for kind in ("linear", "cosine", "1-sqrt")
        ),
    ],
)
@pytest.mark.parametrize("warmup", [0, 7])
def test_names_mean_what_they_do_in_transformers(name: str, shape: dict[str, Any], warmup: int) -> None:
    """Up to the last step; past it transformers' cosine would rise again."""
    factor = lr_lambda(name, warmup_steps=warmup, total_steps=50, **shape)
    expected = [_transformers(name, step, warmup, 50, **shape) for step in range(51)]
    assert [factor(step) for step in range(51)] == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize(
    ("name", "shape", "theirs"),
    [
        ("exponential", {"gamma": 0.9}, lambda o: ExponentialLR(o, 0.9)),
        ("step", {"step_size": 7, "gamma": 0.5}, lambda o: StepLR(o, 7, 0.5)),
        ("linear", {"min_ratio": 0.1}, lambda o: LinearLR(o, 1.0, 0.1, 50)),
        ("polynomial", {"power": 3.0}, lambda o: PolynomialLR(o, 50, 3.0)),
    ],
)
def test_fifty_steps_are_torchs(name: str, shape: dict[str, Any], theirs: Callable[..., Any]) -> None:
    ours = rates(LambdaLR(sgd(), lr_lambda(name, total_steps=50, **shape)), 51)
    assert ours == pytest.approx(rates(theirs(sgd()), 51), abs=1e-12)


SHAPES: dict[str, dict[str, Any]] = {"exponential": {"gamma": 0.9}, "step": {"step_size": 7}}


@pytest.mark.parametrize("name", sorted(DECAYS))
def test_every_schedule_warms_up_falls_and_stays(name: str) -> None:
    factor = lr_lambda(name, warmup_steps=5, total_steps=40, **SHAPES.get(name, {}))
    assert [factor(step) for step in range(6)] == pytest.approx([0, 0.2, 0.4, 0.6, 0.8, 1])
    after = [factor(step) for step in range(5, 60)]
    assert after == sorted(after, reverse=True)
    assert set(after[35:]) == {factor(40)}  # clamped


def test_wsd_decays_for_a_fifth_of_the_steps_unless_told_otherwise() -> None:
    factor = lr_lambda("wsd", warmup_steps=10, total_steps=110)
    assert [factor(step) for step in (10, 90, 100, 110)] == pytest.approx([1, 1, 0.5, 0])
    assert lr_lambda("wsd", total_steps=10, decay_steps=100)(5) == 0.5  # a decay as long as the run


def test_the_warm_up_as_a_fraction_is_rounded_up() -> None:
    """As transformers' `get_warmup_steps`: ceil(0.1 * 45) = 5."""
    by_ratio = lr_lambda("linear", warmup_ratio=0.1, total_steps=45)
    by_steps = lr_lambda("linear", warmup_steps=5, total_steps=45)
    assert [by_ratio(step) for step in range(50)] == [by_steps(step) for step in range(50)]


def test_get_lr_is_the_rate_at_a_step() -> None:
    assert get_lr(5, lr=0.4, name="linear", total_steps=50, warmup_steps=10) == pytest.approx(0.2)
    assert get_lr(30, lr=0.4, name="linear", total_steps=50, warmup_steps=10) == pytest.approx(0.2)


def test_an_unknown_name_is_told_the_nearest() -> None:
    with pytest.raises(ValueError, match="no schedule 'cosin'; did you mean 'cosine'"):
        lr_lambda("cosin", warmup_steps=0, total_steps=1)
    with pytest.raises(ValueError, match="no decay_type 'sqrt'; did you mean '1-sqrt'"):
        lr_lambda("wsd", total_steps=1, decay_type="sqrt")
    with pytest.raises(ValueError, match="give one of the two"):
        lr_lambda("linear", total_steps=10, warmup_steps=1, warmup_ratio=0.1)
    with pytest.raises(TypeError, match="power"):
        lr_lambda("linear", total_steps=10, power=2.0)
    with pytest.raises(TypeError, match="gamma"):
        lr_lambda("exponential", total_steps=10)


RUN = {
    "model": {"class_path": "tiny.Composable"},
    "data": {"class_path": "tiny.Data"},
    "trainer": {"max_epochs": 2, "accelerator": "cpu"},
    "optimizer": {"name": "sgd", "lr": 1.0},
}


@pytest.mark.parametrize(
    ("schedule", "expected"),
    [
        ({"name": "constant", "warmup_ratio": 0.25}, 1.0),
        ({"name": "linear", "num_training_steps": 32}, 0.5),
        ({"name": "polynomial", "power": 2.0, "num_training_steps": 32}, 0.25),
        ({"name": "exponential", "gamma": 0.5}, 0.5**16),
        ({"name": "step", "step_size": 4, "gamma": 0.5}, 0.5**4),
        ({"name": "wsd", "decay_steps": 4, "num_training_steps": 18}, 0.5),
        ({"name": "wsd", "decay_type": "1-sqrt", "min_ratio": 0.1}, 0.1),
    ],
)
def test_from_a_recipe(schedule: dict[str, Any], expected: float) -> None:
    """16 steps; the rate at the end follows from the formulas above."""
    run = assemble({**RUN, "schedule": schedule})
    run.fit()
    scheduler = run.trainer.lr_scheduler_configs[0].scheduler
    assert scheduler.last_epoch == 16
    assert scheduler.get_last_lr()[0] == pytest.approx(expected, rel=1e-12)  # type: ignore[union-attr]


@pytest.mark.parametrize(
    ("schedule", "message"),
    [
        ({"name": "linear", "warmup_steps": 1, "warmup_ratio": 0.1}, "give one of the two"),
        ({"name": "linear", "warmup_ratio": 1.5}, r"warmup_ratio must be in \[0, 1\]"),
        ({"name": "cosine", "warmup_steps": -1}, "warmup_steps must not be negative"),
        ({"name": "cosine", "min_ratio": 2.0}, r"min_ratio must be in \[0, 1\]"),
        ({"name": "cosine", "num_training_steps": 0}, "num_training_steps must be at least 1"),
        ({"name": "exponential"}, "schedule.gamma is missing"),
        ({"name": "exponential", "gamma": 1.1}, "gamma must be above 0"),
        ({"name": "step"}, "schedule.step_size is missing"),
        ({"name": "step", "step_size": 0}, "step_size must be at least 1"),
        ({"name": "polynomial", "power": -1.0}, "power must not be negative"),
        ({"name": "wsd", "decay_type": "sqrt"}, "1-sqrt"),
        ({"name": "wsd", "decay_ratio": 2.0}, r"decay_ratio must be in \[0, 1\]"),
    ],
)
def test_impossible_values_are_refused_in_one_line(schedule: dict[str, Any], message: str) -> None:
    with pytest.raises(RecipeError, match=message) as refused:
        assemble({**RUN, "schedule": schedule})
    assert len(str(refused.value).splitlines()) == 1


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


class StopAfter(Callback):
    def __init__(self, steps: int) -> None:
        self.steps = steps

    def on_train_batch_end(self, trainer: Any, *arguments: Any) -> None:
        trainer.should_stop = trainer.global_step >= self.steps


def test_a_run_without_an_end_needs_the_schedules_own_length(write: Any) -> None:
    endless = ["trainer.max_steps=-1", "trainer.max_epochs=-1"]
    recipe = write(more="schedule: {name: linear}\n")
    with pytest.raises(RefusedError, match="schedule: its length is that of the run, which has no end"):
        assemble(recipe, endless).fit()
    run = assemble(recipe, [*endless, "schedule.num_training_steps=4"])
    run.trainer.callbacks.append(StopAfter(6))  # type: ignore[attr-defined]
    run.fit()
    assert (run.trainer.global_step, run.trainer.optimizers[0].param_groups[0]["lr"]) == (6, 0.0)
