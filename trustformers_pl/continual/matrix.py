"""The accuracy on every task after each task: measured, logged, and kept for the report."""

from __future__ import annotations

import logging
import math
from typing import TYPE_CHECKING, Any

import torch
from lightning.pytorch import Callback
from lightning.pytorch.utilities.model_helpers import is_overridden
from typing_extensions import override

from trustformers_pl.continual import transfer
from trustformers_pl.continual.labels import LABELS
from trustformers_pl.continual.passes import forward, parts, right_and_all
from trustformers_pl.continual.progressive import answering
from trustformers_pl.continual.tasks import tasks_of
from trustformers_pl.loss_window import sum_over_data_ranks
from trustformers_pl.modes import evaluating
from trustformers_pl.stateful import State

if TYPE_CHECKING:
    from lightning.pytorch import LightningModule, Trainer
    from torch import Tensor

    from trustformers_pl.data.loader import ResumableLoader

logger = logging.getLogger(__name__)


class AccuracyMatrix(Callback):
    """Measures the accuracy on the validation data of every task before the first and after each task.

    Logged after each task: `average_accuracy`, and from the second one on `forgetting`, `backward_transfer` and
    `forward_transfer` (see `trustformers_pl.continual.transfer`), `task_accuracy_J` of each task J. Samples are divided
    into tasks as the training data are; of a progressive network each task's own column answers. Each label counts
    once: of a sequence each position that is not -100.

    Args:
        batch_size: Samples of a rank's batch.

    Attributes:
        rows: The matrix, NaN where a task has no validation data; after each task a row.
        untrained: The row before the first task.
    """

    def __init__(self, *, batch_size: int = 256) -> None:
        self.batch_size = batch_size
        self.rows: list[list[float]] = []
        self.untrained: list[float] = []
        self._warned = False

    def on_task_start(self, trainer: Trainer, pl_module: LightningModule, task: int) -> None:
        """Measure the model as it comes, once."""
        if task == 0 and not self.untrained:
            self.untrained = self._measured(trainer, pl_module)

    def on_task_end(self, trainer: Trainer, pl_module: LightningModule, task: int) -> None:
        """Measure and log, and say it where there is a progress bar."""
        row = self._measured(trainer, pl_module)
        if row:
            self.rows.append(row)
            self._log(trainer)
            self._say(trainer, task)

    @property
    def matrix(self) -> Tensor:
        """(k, T) float64 after k tasks."""
        return torch.tensor(self.rows, dtype=torch.double)

    @property
    def metrics(self) -> dict[str, float]:
        """The metrics of the sequence so far, without what is not known yet."""
        if not self.rows or len(self.rows) > len(self.rows[0]):
            return {}
        matrix = self.matrix
        found = {
            "average_accuracy": transfer.average_accuracy(matrix),
            "forgetting": transfer.forgetting(matrix),
            "backward_transfer": transfer.backward_transfer(matrix),
            "forward_transfer": transfer.forward_transfer(matrix, torch.tensor(self.untrained, dtype=torch.double)),
        }
        return {name: value for name, value in found.items() if not math.isnan(value)}

    def _log(self, trainer: Trainer) -> None:
        of_tasks = {f"task_accuracy_{task}": value for task, value in enumerate(self.rows[-1])}
        metrics = {name: value for name, value in (self.metrics | of_tasks).items() if not math.isnan(value)}
        # The counter has moved on: the step that ended the task is the one before.
        step = trainer.fit_loop.epoch_loop._batches_that_stepped - 1
        trainer._logger_connector.log_metrics(dict[str, Any](metrics), step=step)
        self._publish(trainer, metrics)

    def _say(self, trainer: Trainer, task: int) -> None:
        bar = trainer.progress_bar_callback
        if bar is not None and trainer.is_global_zero:
            shown = "".join(f"  {name.replace('_', ' ')} {value:.3f}" for name, value in self.metrics.items())
            bar.print(f"task {task} ended{shown}")

    def _publish(self, trainer: Trainer, metrics: dict[str, float]) -> None:
        trainer.callback_metrics.update({k: torch.tensor(v, dtype=torch.float64) for k, v in metrics.items()})

    @override
    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """What was measured before a resume counts as logged."""
        self._publish(trainer, self.metrics)

    @torch.no_grad()
    def _measured(self, trainer: Trainer, module: LightningModule) -> list[float]:
        tasks = tasks_of(trainer, type(self).__name__)
        counts = torch.zeros(tasks.order.count, 2, dtype=torch.double, device=trainer.strategy.root_device)
        found = False
        with evaluating(module):
            for loader in self._loaders(trainer):
                found = True
                of_sample = tasks.order.known.of_samples(loader.dataset, strict=False)
                for task in range(len(counts)):
                    with answering(module, task):
                        counts[task] += self._counted(trainer, module, loader, (of_sample == task).nonzero().flatten())
        if not found:
            return []
        whole = sum_over_data_ranks(counts, module).cpu()
        return (whole[:, 0] / whole[:, 1]).tolist()  # 0 / 0 is NaN: nothing to measure

    def _counted(self, trainer: Trainer, module: LightningModule, loader: ResumableLoader, indices: Tensor) -> Tensor:
        total = torch.zeros(2, dtype=torch.double, device=trainer.strategy.root_device)
        if not len(indices):
            return total
        for batch, real, _ in parts(trainer, loader, indices, self.batch_size, "measure"):
            total += right_and_all(forward(trainer, module, batch), batch, real, LABELS)
        return total

    def _loaders(self, trainer: Trainer) -> list[ResumableLoader]:
        datamodule: Any = trainer.datamodule  # type: ignore[attr-defined]
        made = datamodule.val_dataloader() if is_overridden("val_dataloader", datamodule) else []
        loaders = list(made) if isinstance(made, list | tuple) else [made]
        found = [loader for loader in loaders if hasattr(loader, "of_samples")]
        if not found and not self._warned and trainer.is_global_zero:
            self._warned = True
            logger.warning("tasks: no validation data with an index, so no accuracies are measured after a task")
        return found

    def state(self) -> State:
        """What was measured."""
        return State({"rows": [list(row) for row in self.rows], "untrained": list(self.untrained)})

    def load_state(self, state: State) -> None:
        """Go on from it."""
        self.rows = [list(row) for row in state.value["rows"]]
        self.untrained = list(state.value["untrained"])
