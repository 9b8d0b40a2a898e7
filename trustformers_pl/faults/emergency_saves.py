"""A run whose data fail saves itself as it was before the batch that could not be fetched."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any

from lightning.pytorch import Callback
from typing_extensions import override

from trustformers_pl.checkpoint.callback import Checkpoint
from trustformers_pl.data.failures import FetchError
from trustformers_pl.loop import EpochLoop

if TYPE_CHECKING:
    from lightning.pytorch import LightningModule, Trainer

logger = logging.getLogger(__name__)


class EmergencySaves(Callback):
    """Lets `Checkpoint` save when a training batch cannot be fetched, where that is exact.

    It is where the batch before it has ended in this epoch, at a step boundary or inside an accumulation window, whose
    gradients are then saved as well. Before an epoch's first batch, and on several ranks, of which the others know
    nothing of the fault, nothing is saved, and the log says so.
    """

    @override
    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        """Save, if it is the data's fault."""
        del pl_module
        loop: Any = trainer.fit_loop.epoch_loop
        callbacks: list[Any] = trainer.callbacks  # type: ignore[attr-defined]
        saver = next((callback for callback in callbacks if isinstance(callback, Checkpoint)), None)
        if not (isinstance(exception, FetchError) and trainer.training and isinstance(loop, EpochLoop) and saver):
            return
        if (reason := _why_not(trainer, loop)) is not None:
            logger.warning("not saved before the batch that failed: %s; the last checkpoint stands", reason)
            return
        saver.save_now(trainer, again=loop._should_accumulate())
        logger.warning("saved after step %d, before the batch that failed", trainer.global_step)


def _why_not(trainer: Trainer, loop: EpochLoop) -> str | None:
    progress = loop.batch_progress.current
    if trainer.world_size > 1:
        return "the other ranks are in the middle of a step"
    if not progress.completed:
        return "it is the first of its epoch"
    if progress.ready != progress.completed:
        return "it was fetched in the middle of a batch"
    return None
