"""One fit of each method on each of the continual-learning data sets, through recipes: accuracies after each task."""

from __future__ import annotations

import sys
import tempfile
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import continual_data
import torch
from continual_data import BATCH, EPOCHS, GRIDS, LR, MEMORY, MOMENTUM, TASKS, Rows, Setting, accuracies
from lightning import Callback, LightningDataModule, LightningModule
from torch.nn import functional as F
from torch.utils.data import DataLoader

from trustformers_pl.factory import assemble

EXAMPLES = Path(__file__).parent.parent / "examples" / "continual"
sys.path.insert(0, str(EXAMPLES))
import fashion  # noqa: E402

if TYPE_CHECKING:
    from torch import Tensor

PAIRS = [[first, first + 1] for first in range(0, 2 * TASKS, 2)]
SEQUENCES = ("naive", "ewc", "lwf", "replay", "joint")


class Digits(LightningDataModule):
    """The digits of `continual_data.py`, split by a seed."""

    def __init__(self, split: int) -> None:
        super().__init__()
        self.tasks = continual_data.digits(split)

    def train_dataloader(self) -> Any:
        """Mixed."""
        x, labels = (torch.cat([getattr(task, name) for task in self.tasks]) for name in ("x", "y"))
        return DataLoader(fashion.Pictures(x, labels), batch_size=BATCH, shuffle=True)

    def val_dataloader(self) -> Any:
        """What is held out."""
        x, labels = (torch.cat([getattr(task, name) for task in self.tasks]) for name in ("test_x", "test_y"))
        return DataLoader(fashion.Pictures(x, labels), batch_size=256)


class Network(LightningModule):
    """Two hidden layers, as a seed initialises them.

    Args:
        start: The seed; None for that of the recipe.
        width: As for `fashion.Network`.
        told: Whether `loss` looks at the two outputs of a sample's own task only, without `scenario: task`.
    """

    def __init__(self, start: int | None = None, told: bool = False) -> None:
        super().__init__()
        self.layers = fashion.Network().layers if start is None else continual_data.network(start)
        self.told = told

    def forward(self, batch: dict[str, Tensor]) -> Tensor:
        """Logits (B, 10)."""
        return self.layers(batch["x"])  # type: ignore[no-any-return]

    def loss(
        self, outputs: Tensor, batch: dict[str, Tensor], sample_weights: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """The weighted sum of cross-entropies, and the number of samples."""
        labels = batch["labels"]
        if self.told:
            outputs = outputs.view(-1, TASKS, 2)[torch.arange(len(labels)), labels // 2]
        losses = F.cross_entropy(outputs, labels % 2 if self.told else labels, reduction="none")
        return (losses if sample_weights is None else losses * sample_weights).sum(), torch.tensor(len(labels))


@dataclass(frozen=True)
class Experiment:
    """What is run, and with which settings.

    Attributes:
        recipe: Sections of every fit.
        grids: Method -> settings that it may have.
        sections: Method -> what is added to its own section.
        together: Sections of the fit on all data at once.
        tuning: How many seeds a setting is chosen on, if not those of the digits.
        told: Whether accuracies are those among a task's own two classes.
    """

    recipe: dict[str, Any]
    grids: dict[str, list[Setting]]
    sections: dict[str, dict[str, Any]]
    together: dict[str, Any] = field(default_factory=dict)
    tuning: int | None = None
    told: bool = False


def experiment(name: str, data: Path) -> Experiment:
    """One of `digits`, `fashion`, `permuted` and `text`.

    Args:
        name: Which.
        data: The folder that `examples/continual/fetch.py` has written to.
    """
    return {"digits": _digits, "fashion": _fashion, "permuted": _permuted, "text": _text}[name](data)


def _digits(_: Path) -> Experiment:
    steps = {"optimizer": {"name": "sgd", "lr": LR, "momentum": MOMENTUM}}
    recipe = {"tasks": {"scenario": "task", "classes": PAIRS, "epochs": EPOCHS}, **steps}
    memory = {"capacity": MEMORY, "batch": BATCH}
    return Experiment(
        recipe=recipe,
        grids=GRIDS,
        sections={"replay": memory, "der": memory},
        together={"max_epochs": EPOCHS},
        told=True,
    )


def _fashion(data: Path) -> Experiment:
    recipe = {
        "model": {"class_path": "continual_jobs.Network"},
        "data": {"class_path": "fashion.Fashion", "init_args": {"folder": str(data / "fashion")}},
        "tasks": {"scenario": "task", "classes": PAIRS, "epochs": 1},
        "optimizer": {"name": "sgd", "lr": 0.02, "momentum": 0.9},
    }
    strengths: list[Setting] = [{"strength": 10.0**power} for power in (2, 3, 4, 5, 6)]
    grids = {**_plain(), "ewc": strengths, "lwf": [{"alpha": alpha} for alpha in (0.03, 0.1, 0.3, 1.0, 3.0, 10.0)]}
    sections = {"ewc": {"samples": 2000}, "replay": {"capacity": 500, "batch": 64}}
    return Experiment(recipe, grids, sections, together={"max_epochs": 1}, told=True)


def _permuted(data: Path) -> Experiment:
    inside = {"folder": str(data / "fashion"), "samples": 2000, "test_samples": 500, "batch_size": 32}
    recipe = {
        "model": {"class_path": "continual_jobs.Network"},
        "data": {"class_path": "permuted.Permuted", "init_args": inside},
        "tasks": {"scenario": "domain", "epochs": 2},
        "optimizer": {"name": "sgd", "lr": 0.02, "momentum": 0.9},
    }
    strengths: list[Setting] = [{"strength": 10.0**power} for power in (0, 1, 2, 3)]
    grids = {**_plain(), "ewc": strengths, "lwf": [{"alpha": alpha} for alpha in (0.1, 0.3, 1.0)]}
    sections = {"ewc": {"samples": 1000}, "replay": {"capacity": 500, "batch": 32}}
    return Experiment(
        recipe, grids, sections, together={"tasks": {"scenario": "domain", "number": 1, "epochs": 2}}, tuning=3
    )


def _text(data: Path) -> Experiment:
    folders = [str(data / "austen"), "stdlib", str(data / "mails")]
    small = {"d_model": 64, "n_layers": 2, "n_heads": 4, "context_length": 64}
    recipe = {
        "model": {"class_path": "trustformers_pl.models.GPT", "init_args": small},
        "data": {"class_path": "domains.Domains", "init_args": {"folders": folders, "val_samples": 64}},
        "tasks": {"scenario": "domain", "steps": 600},
        "optimizer": {"name": "adamw", "lr": 2e-3},
    }
    strengths: list[Setting] = [{"strength": 10.0**power} for power in (-2, -1, 0, 1)]
    grids = {**_plain(), "ewc": strengths, "lwf": [{"alpha": alpha} for alpha in (0.3, 1.0, 3.0)]}
    sections = {"ewc": {"samples": 200, "batch_size": 16}, "replay": {"capacity": 300, "batch": 8}}
    return Experiment(
        recipe, grids, sections, together={"tasks": {"scenario": "domain", "number": 1, "steps": 1800}}, tuning=3
    )


def _plain() -> dict[str, list[Setting]]:
    return {name: [{}] for name in SEQUENCES}


class Witness(Callback):
    """Measures each task after each, among the task's own classes, with nothing of what is tested."""

    def __init__(self, tasks: list[continual_data.Task]) -> None:
        self.tasks, self.rows = tasks, Rows()

    def on_task_end(self, trainer: Any, pl_module: Any, task: int) -> None:
        """A row."""
        del trainer, task
        self.rows.append(accuracies(pl_module.layers, self.tasks))


def recipe_of(job: Experiment, method: str, setting: Setting, seed: int) -> dict[str, Any]:
    """The recipe of one fit.

    Joint training and DER have no `scenario: task`: the one has no tasks, the other weighs samples. Their loss looks at
    the outputs of a sample's task itself.
    """
    sections = {key: value for key, value in job.recipe.items() if key != "tasks" or method != "joint"}
    trainer = {"accelerator": "cpu", "devices": 1, "log_every_n_steps": 50, "max_epochs": -1}
    if job.grids is GRIDS:
        inside = {"start": seed, "told": method in ("joint", "der")}
        sections["model"] = {"class_path": "continual_jobs.Network", "init_args": inside}
        sections["data"] = {"class_path": "continual_jobs.Digits", "init_args": {"split": seed}}
        if method == "der":
            sections["tasks"] = {**sections["tasks"], "scenario": "class", "measure": False}
    elif job.told and method == "joint":
        sections["model"] = {"class_path": "continual_jobs.Network", "init_args": {"told": True}}
    if method == "joint":
        more = dict(job.together)
        trainer |= {"max_epochs": more.pop("max_epochs")} if "max_epochs" in more else {}
        sections |= more
    elif method != "naive":
        sections[method] = {**job.sections.get(method, {}), **setting}
    return {"version": 1, "seed": seed, **sections, "trainer": trainer}


def fit(job: Experiment, method: str, setting: Setting, seed: int) -> Rows:
    """Accuracies on each task (columns) after each (rows); of joint training after all."""
    recipe = recipe_of(job, method, setting, seed)
    with tempfile.TemporaryDirectory() as folder:
        recipe["trainer"]["default_root_dir"] = folder
        run = assemble(recipe)
        witness = Witness(tasks_in(run.datamodule)) if job.told else None
        if witness is not None:
            run.trainer.callbacks.append(witness)  # type: ignore[attr-defined]
        run.fit()
    if witness is not None:
        if method == "joint":
            witness.on_task_end(None, run.module, 0)
        return witness.rows
    return run.callbacks("AccuracyMatrix")[0].rows


def tasks_in(data: Any) -> list[continual_data.Task]:
    """What is held out of each task of a data module of pictures."""
    if isinstance(data, Digits):
        return data.tasks
    x, y = data.pictures("t10k")
    return [continual_data.Task(x[:0], y[:0], x[y // 2 == task], y[y // 2 == task]) for task in range(TASKS)]
