"""The machine beside the metrics: processor, memory, disk and GPU, in the same rows."""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lightning.pytorch import Callback
from typing_extensions import override

from trustformers_pl.tracking.log import is_due, log_scalars
from trustformers_pl.tracking.machine import OF_THE_GPU, OF_THE_HOST, Machine

if TYPE_CHECKING:
    from lightning.pytorch import LightningModule, Trainer


class SystemMetrics(Callback):
    """Logs readings of rank 0's machine to every logger of the trainer, on the optimizer steps that Lightning logs.

    The machine is read at most every `every_seconds`; steps in between repeat the last reading, so that which rows
    there are does not depend on the clock. Nothing waits for the GPU.

    Args:
        every_seconds: Least time between two readings.
    """

    measured_times = (*OF_THE_HOST, *OF_THE_GPU)

    def __init__(self, *, every_seconds: float = 10.0) -> None:
        self._every_seconds = every_seconds
        self._machine: Machine | None = None
        self._last: dict[str, float] = {}
        self._read_at = 0.0
        self._stepped = False
        self.readings = 0

    @override
    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Begin to measure."""
        if trainer.is_global_zero:
            self._machine = Machine(Path(trainer.default_root_dir).absolute(), pl_module.device)
            self._last = {}

    @override
    def on_before_zero_grad(self, trainer: Trainer, pl_module: LightningModule, optimizer: Any) -> None:
        """A window of micro-batches begins."""
        self._stepped = False

    @override
    def on_before_optimizer_step(self, trainer: Trainer, pl_module: LightningModule, optimizer: Any) -> None:
        """It ends with a step."""
        self._stepped = True

    @override
    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Log, when Lightning logs this step."""
        if not self._stepped or not is_due(trainer):
            return
        self._stepped = False
        now = time.monotonic()
        if self._machine is not None and (not self._last or now - self._read_at >= self._every_seconds):
            self._last, self._read_at = self._machine.read(), now
            self.readings += 1
        log_scalars(trainer, self._last)  # on all ranks, of which the first has something to say

    @override
    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Let go of the process's files."""
        self._machine = None
