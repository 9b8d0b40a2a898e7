"""When a run saves, and which of its checkpoints stay."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lightning.pytorch import callbacks
from typing_extensions import override

from trustformers_pl.checkpoint import best_checkpoint
from trustformers_pl.checkpoint.codec import encode
from trustformers_pl.checkpoint.io import FolderCheckpointIO, Request
from trustformers_pl.checkpoint.keeping import prune
from trustformers_pl.checkpoint.provenance import recipe, surroundings, warn_of_differences
from trustformers_pl.checkpoint.ranking import Ranking, as_json
from trustformers_pl.checkpoint.series import step_name
from trustformers_pl.checkpoint.shards import sharded_leaves
from trustformers_pl.checkpoint.unfinished import clean
from trustformers_pl.checkpoint.wall_clock import WallClock
from trustformers_pl.errors import CheckpointError, RefusedError
from trustformers_pl.gathering import first_of_ranks
from trustformers_pl.loop import EpochLoop, exact_loop
from trustformers_pl.state import saves_on_every_rank

if TYPE_CHECKING:
    from collections.abc import Mapping

    from lightning import LightningModule, Trainer

    from trustformers_pl.checkpoint.background import BackgroundWriter

logger = logging.getLogger(__name__)


class Checkpoint(callbacks.Checkpoint):
    """Save at step boundaries, so that a run killed at any moment resumes bit for bit.

    Works alone in a stock Trainer: `Trainer(callbacks=[Checkpoint(every_n_steps=100)])`, resumed by
    `trainer.fit(..., ckpt_path=resume_path(folder))`. Exact with automatic optimization and training
    data that is a `ResumableLoader` or in order, on the same number of ranks.
    """

    def __init__(
        self,
        *,
        folder: str | None = None,
        every_n_steps: int | None = 500,
        every_n_minutes: float | None = None,
        keep_last: int = 2,
        best: Mapping[str, Any] | None = None,
        load_best: bool = False,
        background: bool = True,
    ) -> None:
        """Say when to save.

        Args:
            folder: Where to; `checkpoints` in the Trainer's `default_root_dir` if not given.
            every_n_steps: Optimizer steps between checkpoints; the last step always gets one.
            every_n_minutes: Minutes since the last checkpoint after which the next step boundary gets one.
            keep_last: Checkpoints that stay; older ones are removed once a newer one is safe.
            best: Arguments of `Ranking` (`monitor`, `mode`, `keep`): after validations that are among the best `keep`
                by this metric a checkpoint is taken, and it stays as long as it is one of them.
            load_best: Put the best one's weights into the module when a fit has ended; evaluations of a run use it.
            background: Whether the run goes on while a checkpoint is written. It then holds a copy of its state in host
                memory, and an error of writing is raised at a later boundary, or at the end.
        """
        super().__init__()
        self.folder = folder
        self.every_n_steps = every_n_steps
        self.keep_last = keep_last
        self.ranking = None if best is None else Ranking(**best)
        self.load_best = load_best and best is not None
        self.background = background
        self._clock = None if every_n_minutes is None else WallClock(every_n_minutes)
        self._monitored: float | None = None  # of the validation since the last boundary
        self._saved_step: int | None = None
        self._asked: BackgroundWriter | None = None  # whether it has failed, at each boundary: by a run of one rank

    @override
    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Install the folder format and the exact loop where the Trainer has other ones.

        Raises:
            RefusedError: Another callback saves checkpoints as well, or the best are to be kept without validations.
        """
        del pl_module
        if stage != "fit":
            return
        self._saved_step = self._monitored = None
        others = [type(other).__name__ for other in trainer.checkpoint_callbacks if other is not self]
        if others:
            raise RefusedError(f"Checkpoint and {others[0]} both save this run; remove one of the two callbacks")
        if not isinstance(trainer.strategy.checkpoint_io, FolderCheckpointIO):
            trainer.strategy.checkpoint_io = FolderCheckpointIO()
        exact_loop(trainer)
        if trainer.is_global_zero:
            clean(self.folder_of(trainer))

    @override
    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Find out now, not hours later, whether all can be stored that has to be, and what differs from before.

        Raises:
            CheckpointError: Something in the state cannot be stored; the message names it.
            RefusedError: The best are to be kept, and this fit validates nothing.
        """
        del pl_module
        if self.ranking is not None and not trainer.enable_validation:
            raise RefusedError("checkpoint: best needs validations, and this fit has none; give it data for them")
        dumped = trainer._checkpoint_connector.dump_checkpoint()
        encode(dumped)
        if trainer.world_size > 1 and not saves_on_every_rank(trainer):
            _refuse_sharded(dumped, trainer)
        if trainer.ckpt_path and trainer.is_global_zero:
            warn_of_differences(Path(trainer.ckpt_path), trainer)
        if self._clock is not None:
            self._clock.restart(trainer.global_step)
        self._asked = self._io(trainer).writer if trainer.world_size == 1 else None

    @override
    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Note the metric that decides which checkpoints are the best; rank 0's counts.

        Raises:
            RefusedError: The validation did not log it.
        """
        del pl_module
        if self.ranking is None or trainer.state.fn != "fit":
            return
        metrics = trainer.callback_metrics
        if self.ranking.monitor not in metrics:
            found = ", ".join(sorted(metrics)) or "none at all"
            raise RefusedError(f"checkpoint: best.monitor: validations log no {self.ranking.monitor}; they log {found}")
        value = float(metrics[self.ranking.monitor])
        if not trainer.sanity_checking:
            self._monitored = trainer.strategy.broadcast(value) if trainer.world_size > 1 else value

    def on_step_boundary(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Save if a checkpoint is due.

        Raises:
            CheckpointError: An earlier one could not be written. Several ranks learn of it when the next one is due.
        """
        del pl_module
        loop = trainer.fit_loop.epoch_loop
        assert isinstance(loop, EpochLoop)
        if self._due(trainer, loop):
            self._save(trainer)
        elif self._asked is not None and self._asked.failed:
            self.settle(trainer)
        self._monitored = None

    def _due(self, trainer: Trainer, loop: EpochLoop) -> bool:
        step = loop.global_step
        # Both are asked each time: a ranking has to see every value, and all ranks have to ask the clock.
        is_best = self.ranking is not None and self._monitored is not None and self.ranking.offer(step, self._monitored)
        is_time = self._clock is not None and self._clock.due(trainer, step)
        every = self.every_n_steps
        return is_best or is_time or loop.last_step_done or (every is not None and step % every == 0)

    def save_now(self, trainer: Trainer, *, again: bool = False) -> None:
        """Save this step boundary, unless that is done, and wait until it is safe; for who ends the run. Collective.

        Args:
            trainer: That is fitting.
            again: Save in any case: micro-batches of the next step have been trained on since.

        Raises:
            CheckpointError: It could not be written; on all ranks.
        """
        if again or self._saved_step != trainer.global_step:
            self._save(trainer)
        self.settle(trainer)

    def _save(self, trainer: Trainer) -> None:
        self.settle(trainer)
        step, folder = trainer.global_step, self.folder_of(trainer)
        buffers = [name for name, _ in trainer.lightning_module.named_buffers()]
        request = Request(self._told(trainer), self._after(folder, step), buffers)
        with self._io(trainer).in_background(request):
            trainer.save_checkpoint(folder / step_name(step))
        self._saved_step = step
        if self._clock is not None:
            self._clock.restart(step)
        if not self.background:
            self.settle(trainer)

    def _after(self, folder: Path, step: int) -> Any:
        keep = {} if self.ranking is None else dict(self.ranking.best)
        return lambda: prune(folder, step, keep_last=self.keep_last, keep=keep)

    def _told(self, trainer: Trainer) -> dict[str, Any]:
        told = {**surroundings(trainer), **recipe(trainer)}
        if self.ranking is None:
            return told
        # A step that the run went back to is saved again, and its validation is not made again.
        value = self.ranking.value(trainer.global_step) if self._monitored is None else self._monitored
        monitored = {} if value is None else {"monitored": {self.ranking.monitor: as_json(value)}}
        return {**told, **monitored, **self.ranking.told()}

    def settle(self, trainer: Trainer) -> None:
        """Wait until nothing is being written; every rank raises what any rank's writer failed with. Collective."""
        cause: CheckpointError | None = None
        try:
            self._io(trainer).writer.wait()
        except CheckpointError as error:
            cause = error
        told = first_of_ranks(None if cause is None else str(cause))
        if told is not None:
            raise CheckpointError(told) from cause

    @override
    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """The last checkpoint is safe before anybody says that the run has ended well.

        Raises:
            CheckpointError: It could not be written.
        """
        del pl_module
        self.settle(trainer)

    @override
    def on_fit_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Put the best weights into the module, where that is asked for.

        Before, remove what a run that was killed just after its last checkpoint came to remove no more.
        """
        if trainer.is_global_zero:
            self._after(self.folder_of(trainer), trainer.global_step)()
        path = self.evaluated_path(trainer)
        if path is not None:
            checkpoint = trainer.strategy.load_checkpoint(path)
            trainer.strategy.load_model_state_dict(checkpoint, strict=pl_module.strict_loading)
            if trainer.is_global_zero:
                logger.info("the module has the weights of %s, the best checkpoint", path)

    def evaluated_path(self, trainer: Trainer) -> str | None:
        """The best checkpoint, if that is to be evaluated: rank 0's choice. Collective. None: the newest, as always."""
        if not self.load_best:
            return None
        found = best_checkpoint.best(self.folder_of(trainer)) if trainer.is_global_zero else None
        told: str | None = trainer.strategy.broadcast(None if found is None else str(found))
        return told

    @override
    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        """End what is being written; the exception that ends the run is not replaced by one of writing."""
        del pl_module, exception
        io = trainer.strategy.checkpoint_io
        try:
            if isinstance(io, FolderCheckpointIO):  # not yet, when the run was refused
                io.writer.close()
        except CheckpointError as error:
            logger.warning("%s", error)

    @staticmethod
    def _io(trainer: Trainer) -> FolderCheckpointIO:
        io = trainer.strategy.checkpoint_io
        assert isinstance(io, FolderCheckpointIO)
        return io

    def folder_of(self, trainer: Trainer) -> Path:
        """Where this run's checkpoints are."""
        return Path(self.folder) if self.folder else Path(trainer.default_root_dir) / "checkpoints"

    @override
    def state_dict(self) -> dict[str, Any]:
        """Which steps were the best; which checkpoints there are is read from the folder."""
        return {} if self.ranking is None else {"ranking": self.ranking.state()}

    @override
    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take over which steps were the best; the last validation may be of weights that were just given up."""
        self._monitored = None
        if self.ranking is not None and "ranking" in state_dict:
            self.ranking.load_state(state_dict["ranking"])


def _refuse_sharded(dumped: object, trainer: Trainer) -> None:
    """Nobody would call the writers of the other ranks, and rank 0's would wait for them."""
    if leaves := sharded_leaves(dumped):
        raise CheckpointError(
            f"{leaves[0][0]}: it lies on several ranks, and {type(trainer.strategy).__name__} saves on rank 0 only; "
            "use a strategy with saves_on_every_rank, or gather it in state_dict()"
        )
