"""The data and networks that both sides of the continual-learning tables start from; needs torch and scikit-learn only.

`continual_tables.py` and `avalanche_digits.py` run in environments of their own, and must see the same samples and the
same first weights.
"""

from __future__ import annotations

import itertools
from typing import TYPE_CHECKING, NamedTuple

import torch
from sklearn.datasets import load_digits
from torch import Tensor, nn

if TYPE_CHECKING:
    from collections.abc import Callable

Setting = dict[str, float]
Rows = list[list[float]]

TASKS = 5
EPOCHS, BATCH, LR, MOMENTUM = 10, 16, 0.02, 0.9
MEMORY = 100
TUNING = [100, 101]
UNSTEADY = {"mas": [100, 101, 102, 103, 104]}
"""Methods whose runs break down now and then are tuned on more seeds."""
STRENGTHS = [10.0**power for power in range(1, 9)]
GRIDS: dict[str, list[Setting]] = {
    "naive": [{}],
    "ewc": [{"strength": strength} for strength in STRENGTHS],
    "si": [{"strength": 10.0**power} for power in range(-2, 8)],
    "mas": [{"strength": strength} for strength in (0.1, 0.3, 1.0, 3.0)],
    "lwf": [{"alpha": alpha, "temperature": 2.0} for alpha in (0.3, 1.0, 3.0, 10.0)],
    "replay": [{}],
    "der": [{"alpha": alpha, "beta": beta} for alpha in (0.03, 0.1, 0.3) for beta in (0.5, 1.0)],
    "joint": [{}],
}
"""Settings that each side chooses from, by the average accuracy over the seeds of `TUNING`."""


class Task(NamedTuple):
    """(N, 64) pixels in [0, 1] and (N,) digits, to train and to test on."""

    x: Tensor
    y: Tensor
    test_x: Tensor
    test_y: Tensor


def digits(seed: int) -> list[Task]:
    """Two digits a task; a quarter, drawn by the seed, is held out."""
    pixels, found = load_digits(return_X_y=True)
    order = torch.randperm(len(found), generator=torch.Generator().manual_seed(seed))
    x, y = (torch.tensor(pixels) / 16).float()[order], torch.tensor(found)[order]
    train = torch.arange(len(y)) < 0.75 * len(y)
    parts = [y // 2 == number for number in range(TASKS)]
    return [Task(x[of & train], y[of & train], x[of & ~train], y[of & ~train]) for of in parts]


def mlp(*sizes: int) -> nn.Sequential:
    """Linear layers of some sizes, with ReLU between."""
    layers = [layer for a, b in itertools.pairwise(sizes) for layer in (nn.Linear(a, b), nn.ReLU())]
    return nn.Sequential(*layers[:-1])


def network(seed: int) -> nn.Sequential:
    """64-100-100-10, as torch initialises it."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return mlp(64, 100, 100, 2 * TASKS)


@torch.no_grad()
def accuracies(model: nn.Module, data: list[Task]) -> list[float]:
    """On the test part of each task, among its two digits; a network that broke has 0.5."""
    found = []
    for number, task in enumerate(data):
        outputs = model(task.test_x)[:, 2 * number : 2 * number + 2]
        right = (outputs.argmax(1) == task.test_y % 2).float().mean().item()
        found.append(right if bool(outputs.isfinite().all()) else 0.5)
    return found


def average(rows: Rows) -> float:
    """Accuracy on all tasks after the last one."""
    return sum(rows[-1]) / len(rows[-1])


def chosen(method: str, grid: list[Setting], fit: Callable[[Setting, int], Rows], number: int | None = None) -> Setting:
    """The setting of a grid with the best average accuracy over the seeds for tuning; the first of equal ones.

    Args:
        method: Its name.
        grid: What it may be.
        fit: Of a setting and a seed.
        number: Of seeds; by default those of `TUNING`, or of `UNSTEADY`.
    """
    seeds = UNSTEADY.get(method, TUNING) if number is None else range(TUNING[0], TUNING[0] + number)
    if len(grid) == 1:
        return grid[0]
    return max(grid, key=lambda setting: sum(average(fit(setting, seed)) for seed in seeds))
