"""When a run saves, and which of its checkpoints stay."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from lightning.pytorch import callbacks

from trustformers_pl.checkpoint.codec import encode
from trustformers_pl.checkpoint.io import FolderCheckpointIO
from trustformers_pl.checkpoint.series import remove, step_name, steps
from trustformers_pl.checkpoint.unfinished import clean
from trustformers_pl.errors import RefusedError
from trustformers_pl.loop import EpochLoop, exact_loop

if TYPE_CHECKING:
    from lightning import LightningModule, Trainer


class Checkpoint(callbacks.Checkpoint):
    """Save at step boundaries, so that a run killed at any moment resumes bit for bit.

    Works alone in a stock Trainer: `Trainer(callbacks=[Checkpoint(every_n_steps=100)])`, resumed by
    `trainer.fit(..., ckpt_path=resume_path(folder))`. Exact with automatic optimization and training
    data that is a `ResumableLoader` or in order, on the same number of ranks.
    """

    def __init__(self, *, folder: str | None = None, every_n_steps: int = 500, keep_last: int = 2) -> None:
        """Say when to save.

        Args:
            folder: Where to; `checkpoints` in the Trainer's `default_root_dir` if not given.
            every_n_steps: Optimizer steps between checkpoints; the last step always gets one.
            keep_last: Checkpoints that stay; older ones are removed once a newer one is safe.
        """
        super().__init__()
        self.folder = folder
        self.every_n_steps = every_n_steps
        self.keep_last = keep_last
        self._saved_step: int | None = None

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Install the folder format and the exact loop where the Trainer has other ones.

        Raises:
            RefusedError: Another callback saves checkpoints as well.
        """
        del pl_module
        if stage != "fit":
            return
        self._saved_step = None
        others = [type(other).__name__ for other in trainer.checkpoint_callbacks if other is not self]
        if others:
            raise RefusedError(f"Checkpoint and {others[0]} both save this run; remove one of the two callbacks")
        if not isinstance(trainer.strategy.checkpoint_io, FolderCheckpointIO):
            trainer.strategy.checkpoint_io = FolderCheckpointIO()
        exact_loop(trainer)
        if trainer.is_global_zero:
            clean(self.folder_of(trainer))

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Find out now, not hours later, whether all state can be stored.

        Raises:
            CheckpointError: Something in it cannot; the message names it.
        """
        del pl_module
        encode(trainer._checkpoint_connector.dump_checkpoint())

    def on_step_boundary(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Save if a checkpoint is due."""
        del pl_module
        loop = trainer.fit_loop.epoch_loop
        assert isinstance(loop, EpochLoop)
        if loop.global_step % self.every_n_steps == 0 or loop.last_step_done:
            self._save(trainer)

    def save_now(self, trainer: Trainer) -> None:
        """Save this step boundary, unless that is done; for who ends the run here. Collective."""
        if self._saved_step != trainer.global_step:
            self._save(trainer)

    def _save(self, trainer: Trainer) -> None:
        self._saved_step = trainer.global_step
        folder = self.folder_of(trainer)
        folder.mkdir(parents=True, exist_ok=True)
        trainer.save_checkpoint(folder / step_name(trainer.global_step))
        if trainer.is_global_zero:
            for path in list(steps(folder).values())[: -self.keep_last]:
                remove(path)

    def settle(self, trainer: Trainer) -> None:
        """Wait until nothing is being written: a checkpoint is safe as soon as `on_step_boundary` has returned."""

    def folder_of(self, trainer: Trainer) -> Path:
        """Where this run's checkpoints are."""
        return Path(self.folder) if self.folder else Path(trainer.default_root_dir) / "checkpoints"

    def state_dict(self) -> dict[str, Any]:
        """Nothing: which checkpoints there are is read from the folder."""
        return {}
