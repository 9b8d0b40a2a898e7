"""Runs that grow, on ranks: what a test compares."""

from __future__ import annotations

from typing import Any

import torch
from continual_job import Network, recipe
from torch import Tensor, nn

from trustformers_pl.testing.trial import train


class Below(Network):
    """With layers that are in no column."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(1)
        self.below = nn.Sequential(nn.Linear(64, 64), nn.BatchNorm1d(64))

    def forward(self, batch: list[Tensor]) -> Tensor:
        return self.layers(self.below(batch[0]))


class Beneath(Below):
    """Whose answers to a sample do not depend on its batch."""

    def __init__(self) -> None:
        super().__init__()
        self.below[1] = nn.LayerNorm(64)


TASKS = {"scenario": "task", "classes": [[0, 1], [2, 3, 4], [5, 6, 7, 8, 9]], "steps": 4}


def sections(ranks: int, **more: Any) -> dict[str, Any]:
    """Three tasks of four steps on a global batch of 16."""
    made = recipe(
        TASKS,
        every=4,
        data={"class_path": "continual_job.Digits", "init_args": {"every": 4, "batch_size": 16 // ranks}},
        progressive={"column": "layers", "lateral": "adapter"},
        checkpoint=None,
        csv=None,
        metrics=None,
        **{"model": {"class_path": "continual_job.Network", "init_args": {}}, **more},
    )
    made = {key: value for key, value in made.items() if value is not None}
    if ranks > 1:
        made["trainer"] = {**made["trainer"], "devices": ranks}
        made.setdefault("ddp", {})
    else:
        made.pop("ddp", None)
    return made


def grown(ranks: int, more: dict[str, Any], folder: str) -> tuple[dict[str, list[float]], list[list[float]], int]:
    """The weights, the accuracies, and how many parameters DDP has beside those that train."""
    trial = train(sections(ranks, **more), folder)
    module = trial.run.module
    (matrix,) = trial.run.callbacks("AccuracyMatrix")
    weights = {name: value.double().flatten().tolist() for name, value in module.state_dict().items()}
    model: Any = trial.run.trainer.strategy.model
    trained = sum(p.requires_grad for p in module.parameters())
    reduced = len(model._module_parameters) if isinstance(model, torch.nn.parallel.DistributedDataParallel) else trained
    return weights, matrix.rows, reduced - trained
