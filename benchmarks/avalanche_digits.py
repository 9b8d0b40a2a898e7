"""Avalanche on the digits of `continual_data.py`, in five tasks: accuracies after each task, as JSON.

Avalanche 0.6.0 has an environment of its own, in which this script runs and `trustformers_pl` need not be:

    python -m venv avalanche && . avalanche/bin/activate
    pip install torch==2.13.0 numpy scikit-learn
    pip install --no-deps avalanche-lib==0.6.0 torchvision==0.28.0
    pip install dill gdown gputil matplotlib pillow psutil pytorchcv qpsolvers setuptools tensorboard torchmetrics wandb
    python benchmarks/avalanche_digits.py --out avalanche.json

Avalanche imports torchvision, whose compiled operators may not be those of the torch that is there; they are declared
empty here, and never called. `ewc` takes Avalanche's Fisher information, squares of the mean gradients of batches;
`ewc, single samples` is its plugin with batches of one sample in that pass. Its DER asks its model for logits without
a task, which a network with a head for each task refuses; here it is told the task. On the CPU its SI remembers weights
as views of themselves, which never differ from what they have become, so that its penalty is 0 at any strength
(`si, as it ships`); `si` has copies of them.

Strengths are the plugins' own: Avalanche's penalties lack the factor 1/2.
"""

from __future__ import annotations

import argparse
import json
import logging
import statistics
import sys
from functools import cache
from pathlib import Path
from typing import Any

import torch
from continual_data import (
    BATCH,
    EPOCHS,
    GRIDS,
    LR,
    MEMORY,
    MOMENTUM,
    Task,
    accuracies,
    average,
    chosen,
    digits,
    network,
)  # fmt: skip
from torch import Tensor, nn

_OPERATORS = torch.library.Library("torchvision", "FRAGMENT")
for _name in ("nms(Tensor dets, Tensor scores, float iou_threshold)", "qnms(Tensor dets, Tensor s, float iou)"):
    try:
        _OPERATORS.define(f"{_name} -> Tensor")
    except RuntimeError:
        continue

from avalanche.benchmarks import benchmark_from_datasets, with_classes_timeline, with_task_labels  # noqa: E402
from avalanche.benchmarks.utils.classification_dataset import (  # noqa: E402
    _make_taskaware_tensor_classification_dataset as tensors_with_tasks,
)
from avalanche.models import MultiTaskModule  # noqa: E402
from avalanche.models.utils import avalanche_forward  # noqa: E402
from avalanche.training import plugins as given  # noqa: E402
from avalanche.training.plugins import EvaluationPlugin, EWCPlugin  # noqa: E402
from avalanche.training.supervised import DER, JointTraining, Naive, der  # noqa: E402
from avalanche.training.utils import copy_params_dict  # noqa: E402, F401 (for `avalanche_cost.py`)

SINGLE, SHIPPED = "ewc, single samples", "si, as it ships"
SETTINGS = {**GRIDS, SINGLE: GRIDS["ewc"], SHIPPED: [{"strength": 1.0}]}


class Heads(MultiTaskModule):
    """The network; of its ten outputs, those of the task."""

    def __init__(self, seed: int) -> None:
        super().__init__()
        self.layers = network(seed)

    def forward_single_task(self, x: Tensor, task_label: int) -> Tensor:
        """(B, 2)."""
        return self.layers(x)[:, 2 * task_label : 2 * task_label + 2]


class SingleSamples(EWCPlugin):
    """Batches of one sample in the Fisher pass: squares of each sample's own gradient."""

    def compute_importances(  # type: ignore[no-untyped-def]
        self, model, criterion, optimizer, dataset, device, batch_size, num_workers=0
    ):
        """As Avalanche does."""
        del batch_size
        return super().compute_importances(model, criterion, optimizer, dataset, device, 1, num_workers)


class Copying(given.SynapticIntelligencePlugin):
    """Synaptic intelligence with weights that are remembered as they were."""

    def before_training_iteration(self, strategy: Any, **kwargs: Any) -> None:
        """Copy those before the step."""
        super().before_training_iteration(strategy, **kwargs)
        for kept in self.syn_data["old_theta"].values():
            kept.data = kept.data.clone()

    def before_training_exp(self, strategy: Any, **kwargs: Any) -> None:
        """Copy those that the task begins with."""
        super().before_training_exp(strategy, **kwargs)
        for kept in self.ewc_data[0].values():
            kept.data = kept.data.clone()


@torch.no_grad()
def _logits_of_tasks(
    dataset: Any, model: nn.Module, batch_size: int, device: Any, num_workers: int = 0
) -> list[Tensor]:
    loader = torch.utils.data.DataLoader(dataset, batch_size=batch_size, num_workers=num_workers)
    return [row.clone() for x, _, task in loader for row in avalanche_forward(model, x.to(device), task)]


der.compute_dataset_logits = _logits_of_tasks


def benchmark(data: list[Task]) -> Any:
    """The tasks, with labels 0 and 1 in each."""
    parts = [tensors_with_tasks(task.x, task.y % 2, task_labels=[n] * len(task.y)) for n, task in enumerate(data)]
    return with_classes_timeline(with_task_labels(benchmark_from_datasets(train=parts)))


def strategy(method: str, setting: dict[str, float], model: Heads) -> Any:
    """Avalanche's own."""
    common: dict[str, Any] = {
        "model": model, "optimizer": torch.optim.SGD(model.parameters(), LR, momentum=MOMENTUM),
        "train_mb_size": BATCH, "train_epochs": EPOCHS, "evaluator": EvaluationPlugin(loggers=[]),
    }  # fmt: skip
    common["criterion"] = nn.CrossEntropyLoss()
    if method == "joint":
        return JointTraining(**common)
    if method == "der":
        return DER(mem_size=MEMORY, batch_size_mem=BATCH, **setting, **common)
    return Naive(plugins=_plugins(method, setting), **common)


def _plugins(method: str, setting: dict[str, float]) -> list[Any]:
    strength = setting.get("strength", 0.0)
    makers: dict[str, Any] = {
        "naive": list,
        "ewc": lambda: [EWCPlugin(strength)],
        SINGLE: lambda: [SingleSamples(strength)],
        "si": lambda: [Copying(strength)],
        SHIPPED: lambda: [given.SynapticIntelligencePlugin(strength)],
        "mas": lambda: [given.MASPlugin(strength)],
        "lwf": lambda: [given.LwFPlugin(**setting)],
        "replay": lambda: [given.ReplayPlugin(MEMORY, batch_size_mem=BATCH)],
    }
    return makers[method]()  # type: ignore[no-any-return]


@cache
def _fit(method: str, items: tuple[tuple[str, float], ...], seed: int) -> list[list[float]]:
    data, model = digits(seed), Heads(seed)
    torch.manual_seed(seed)
    stream = benchmark(data).train_stream
    trained = strategy(method, dict(items), model)
    if method == "joint":
        trained.train(stream, eval_streams=[])
        return [accuracies(model.layers, data)]
    rows = []
    for experience in stream:
        trained.train(experience, eval_streams=[])
        rows.append(accuracies(model.layers, data))
    return rows


def fit(method: str, setting: dict[str, float], seed: int) -> list[list[float]]:
    """Accuracies on each task (columns) after each (rows)."""
    return _fit(method, tuple(setting.items()), seed)


def main() -> None:
    """Tune, run, write after each method."""
    parser = argparse.ArgumentParser(description="Avalanche on digits in five tasks.")
    parser.add_argument("--seeds", type=int, default=10)
    parser.add_argument("--out", type=Path, default=Path("avalanche.json"))
    parser.add_argument("--methods", nargs="*", default=[*SETTINGS])
    parser.add_argument("--sweep", nargs="*", default=[SINGLE], help="of these, every strength")
    parser.add_argument("--swept-seeds", type=int, default=10)
    options = parser.parse_args()
    torch.set_num_threads(1)
    logging.disable(logging.WARNING)
    found: dict[str, Any] = json.loads(options.out.read_text()) if options.out.exists() else {}
    for method in options.methods:
        setting = chosen(method, SETTINGS[method], lambda of, seed, method=method: fit(method, of, seed))
        found[method] = {"setting": setting, "runs": [fit(method, setting, seed) for seed in range(options.seeds)]}
        options.out.write_text(json.dumps(found))
        print(method, setting, statistics.mean(map(average, found[method]["runs"])), file=sys.stderr, flush=True)
    for method in options.sweep:
        swept = found.setdefault(f"{method}: sweep", {})
        for setting in SETTINGS[method]:
            swept[f"{setting['strength']:g}"] = [fit(method, setting, seed) for seed in range(options.swept_seeds)]
            options.out.write_text(json.dumps(found))


if __name__ == "__main__":
    main()
