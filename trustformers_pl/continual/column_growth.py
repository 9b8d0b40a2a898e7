"""A run's progressive network: how it comes into the module, gets columns, and fits a checkpoint."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from trustformers_pl.continual.division import NO_TASK
from trustformers_pl.continual.labels import LABELS, of_batch
from trustformers_pl.continual.progressive import ProgressiveNetwork, answering, networks
from trustformers_pl.continual.progressive_blocks import ProgressiveBlocks
from trustformers_pl.errors import DataError, RefusedError
from trustformers_pl.growth import grow

if TYPE_CHECKING:
    from lightning.pytorch import LightningModule

    from trustformers_pl.phases import PhaseContext


class IntoColumns:
    """A transform of the phase SURGERY: puts a `ProgressiveNetwork` in the place of a submodule.

    Args:
        column: The submodule's dotted name.
        options: Of `ProgressiveNetwork`.
    """

    def __init__(self, column: str, **options: Any) -> None:
        self.column, self.options = column, options

    def __call__(self, module: nn.Module, context: PhaseContext) -> None:
        """Replace it.

        Raises:
            RefusedError: There is no such submodule, or it cannot be a column.
        """
        if type(module) is nn.Module:  # a part that grows
            return
        try:
            body = module.get_submodule(self.column) if self.column else None
        except AttributeError:
            body = None
        if body is None:
            have = ", ".join(name for name, _ in module.named_children())
            raise RefusedError(f"progressive.column: the module has no submodule {self.column!r}; it has {have}")
        kind = ProgressiveBlocks if isinstance(body, nn.ModuleList) else ProgressiveNetwork
        made = kind(body, seed=context.seed, **self.options)
        parent, _, own_name = self.column.rpartition(".")
        setattr(module.get_submodule(parent), own_name, made)


def add_column(module: LightningModule, name: str) -> None:
    """Freeze the columns of a network and grow the next one, through the module's phases and into its optimizer.

    A module's method `initialize_weights(part)`, if it has one, draws the new column's weights.

    Args:
        module: The LightningModule, of a fit that runs, at a step boundary, or of one that is to come.
        name: Of the network in it.
    """
    network = module.get_submodule(name)
    assert isinstance(network, ProgressiveNetwork)
    column = network.new_column(getattr(module, "initialize_weights", None))
    network.freeze()
    grow(module, f"{name}.columns.{len(network.columns)}", column)
    network.train(network.training)


class ProgressiveModule:
    """Mixin: a LightningModule whose `load_state_dict` gives its progressive networks as many columns as the state has.

    New columns go through the module's phases, as they do in a run. And where tasks are told (`TaskHeads`), evaluations
    ask each sample's own column; the batch is computed once for each task in it.
    """

    if TYPE_CHECKING:  # given by LightningModule, and by `TaskHeads`
        training: bool
        class_tasks: Tensor | None
        label_field: str

    def load_state_dict(self, state_dict: Mapping[str, Any], *args: Any, **kwargs: Any) -> Any:
        """As torch's, with as many columns."""
        module: Any = self
        for name, network in networks(module).items():
            count = network.prepare(state_dict, f"{name}.")
            while len(network.columns) < count:
                add_column(module, name)
        return super().load_state_dict(state_dict, *args, **kwargs)  # type: ignore[misc]

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """The module's own; of an evaluation where tasks are told, each row by its column."""
        module: Any = self
        rows = self._tasks_of_rows(args[0]) if args and not self.training else None
        if rows is None:
            return super().forward(*args, **kwargs)  # type: ignore[misc]
        found: Any = None
        for task in sorted(set(rows.tolist())):
            with answering(module, task):
                outputs = super().forward(*args, **kwargs)  # type: ignore[misc]
            found = outputs if found is None else _with_rows(found, outputs, rows == task)
        return found

    def _tasks_of_rows(self, batch: Any) -> Tensor | None:
        of_class = getattr(self, "class_tasks", None)
        told = networks(self)  # type: ignore[arg-type]
        if of_class is None or any(one.task is not None or len(one.columns) == 1 for one in told.values()):
            return None
        try:
            labels = of_batch(batch, getattr(self, "label_field", LABELS))
        except DataError:  # a batch to predict
            return None
        tasks: Tensor = of_class.to(labels.device)[labels.clamp(0, len(of_class) - 1)]
        return tasks.where(tasks != NO_TASK, tasks.max())


def _with_rows(old: Any, new: Any, rows: Tensor) -> Any:
    """Outputs of which some rows are of others; mappings by their keys."""
    if isinstance(old, Mapping):
        return {key: _with_rows(value, new[key], rows) for key, value in old.items()}
    if not isinstance(old, Tensor) or old.shape[:1] != rows.shape:
        raise RefusedError(
            f"progressive: outputs of several columns are put together by rows, not {type(old).__name__}"
        )
    return torch.where(rows.to(old.device).view(-1, *[1] * (old.dim() - 1)), new, old)
