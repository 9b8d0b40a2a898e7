"""Where a training's seconds go, by phase, from a clock that is read a few times a step."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lightning.pytorch import Callback
from typing_extensions import override

from trustformers_pl.tracking.rows import append, keep_lines, whole_lines

if TYPE_CHECKING:
    from lightning.pytorch import LightningModule, Trainer
    from torch.optim import Optimizer

FILE = "times.jsonl"
PHASES = ("data", "compute", "optimizer", "validation", "checkpoint")


class PhaseTimer(Callback):
    """Adds up the seconds of each phase of a fit, and keeps them in `times.jsonl`, a JSON object a line.

    `data` is the wait for a batch and its way to the device; `compute` forward and backward pass; `optimizer` from the
    last gradient to the end of the step (clipping, the step, the schedule); `validation` and `checkpoint` what they
    say. What is left of `seconds` is logging, callbacks and the loop itself. `step` counts optimizer steps done.

    On a GPU these are seconds of the process: kernels run on after it has queued them, so that `compute` is short and
    whoever waits for the device first (logging, the optimizer) is long. Nothing is synchronised for the measurement.

    The seconds between a checkpoint and a kill are not counted, as those steps are made again.

    Args:
        folder: Where `times.jsonl` lies; the trainer's `default_root_dir` when None.
        every_seconds: Least time between two lines; there is one more after every validation, and at the end.
    """

    def __init__(self, *, folder: str | Path | None = None, every_seconds: float = 5.0) -> None:
        self._path = None if folder is None else Path(folder) / FILE
        self._every_seconds = every_seconds
        self._seconds = dict.fromkeys(PHASES, 0.0)
        self._before = 0.0
        self._began = self._mark = self._wrote = 0.0
        self._gradients_done: float | None = None
        self._leads = False

    @override
    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Find the file."""
        self._path = self._path or Path(trainer.default_root_dir) / FILE
        self._leads = trainer.is_global_zero

    @override
    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Start the clock where the last line that counts has stopped it."""
        assert self._path is not None
        if self._leads:
            self.truncate_after(trainer.global_step or -1)
            last = json.loads((whole_lines(self._path) or ["{}"])[-1])
            self._before = last.get("seconds", 0.0)
            self._seconds = {phase: last.get(phase, 0.0) for phase in PHASES}
        self._time_checkpoints(trainer)
        self._began = self._mark = time.perf_counter()
        self._write(trainer)

    def _time_checkpoints(self, trainer: Trainer) -> None:
        """No hook is called when a checkpoint has been written: the trainer's own method is, for this fit."""
        save = trainer.save_checkpoint

        def timed(*args: Any, **kwargs: Any) -> None:
            began = time.perf_counter()
            try:
                save(*args, **kwargs)
            finally:
                self._leave_out("checkpoint", began)

        trainer.save_checkpoint = timed  # type: ignore[method-assign]

    def _leave_out(self, phase: str, began: float) -> None:
        """Count the seconds since `began` for a phase, and not for the one that it has interrupted."""
        spent = time.perf_counter() - began
        self._seconds[phase] += spent
        self._mark += spent

    @override
    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        """A batch is there."""
        now = time.perf_counter()
        self._seconds["data"] += now - self._mark
        self._mark = now

    @override
    def on_before_optimizer_step(self, trainer: Trainer, pl_module: LightningModule, optimizer: Optimizer) -> None:
        """Its gradients are there."""
        self._gradients_done = time.perf_counter()

    @override
    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """It is done."""
        now, computed = time.perf_counter(), self._gradients_done
        self._gradients_done = None
        self._seconds["compute"] += (now if computed is None else computed) - self._mark
        self._seconds["optimizer"] += 0.0 if computed is None else now - computed
        self._mark = now
        if now - self._wrote >= self._every_seconds:
            self._write(trainer)

    @override
    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """The clock of the training stands still."""
        self._validation_began = time.perf_counter()

    @override
    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """And goes on."""
        if trainer.state.fn == "fit" and not trainer.sanity_checking:
            self._leave_out("validation", self._validation_began)
            self._write(trainer)

    @override
    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """The last line, also after an error; the trainer's own method again."""
        if stage == "fit" and self._began:
            self._write(trainer)
            vars(trainer).pop("save_checkpoint", None)
            self._began = 0.0

    def _write(self, trainer: Trainer) -> None:
        now = self._wrote = time.perf_counter()
        if self._leads and self._path is not None:
            line = {"step": trainer.global_step, "seconds": self._before + now - self._began, **self._seconds}
            append(self._path, json.dumps({name: round(value, 6) for name, value in line.items()}) + "\n")

    def truncate_after(self, step: int) -> None:
        """Forget the lines of after a checkpoint; the rewrite is atomic.

        Args:
            step: `trainer.global_step` of the checkpoint: optimizer steps completed when it was saved.

        Raises:
            TrustformersError: The file cannot be written.
        """
        if self._path is not None and self._leads:
            keep_lines(self._path, lambda line: bool(json.loads(line)["step"] <= step))
