"""Going back to a checkpoint, how often, and what is left out afterwards: for the features that decide on it."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import TYPE_CHECKING, Any

from trustformers_pl.checkpoint.callback import Checkpoint
from trustformers_pl.checkpoint.keeping import remove_abandoned
from trustformers_pl.errors import NonFiniteError, RefusedError
from trustformers_pl.faults.going_back import are_finite, go_back, newest_finite
from trustformers_pl.loop import exact_loop

if TYPE_CHECKING:
    from collections.abc import Mapping

    from lightning.pytorch import Trainer

logger = logging.getLogger(__name__)


class Rollbacks:
    """Goes back to the newest checkpoint with finite weights, and on with other data than those that led astray.

    The batches since that checkpoint are not shown again; `skip_batches` further optimizer steps are left out, as PaLM
    did (Chowdhery et al. 2022, section 5.1: a checkpoint some 100 steps before the spike, and 200 to 500 batches
    skipped; the same batches did no harm from another state). Before there is a checkpoint the step alone is left out.

    Args:
        max_rollbacks: After so many the run stops.
        skip_batches: Optimizer steps left out after going back.

    Attributes:
        done: Times that the run has gone back.
        left: Steps still to be left out.
        cause: Why the run shall go back at the end of this step; None where it shall not.
    """

    def __init__(self, max_rollbacks: int, skip_batches: int) -> None:
        self.max_rollbacks, self.skip_batches = max_rollbacks, skip_batches
        self.done = self.left = 0
        self.cause: str | None = None

    def prepare(self, trainer: Trainer, who: str) -> None:
        """Install the loop that has step boundaries.

        Raises:
            RefusedError: Nobody saves this run.
        """
        exact_loop(trainer)
        self.cause = None
        if _saver(trainer) is None:
            raise RefusedError(f"{who} goes back to checkpoints, and nobody saves any; add `checkpoint` to the run")

    def leaves_out(self) -> bool:
        """Whether this optimizer step is one of those to be left out; called once for each."""
        if not self.left:
            return False
        self.left -= 1
        return True

    def at_boundary(self, trainer: Trainer) -> None:
        """Go back, if there is a cause.

        Raises:
            NonFiniteError: It has gone back often enough, or there is nothing to go back to.
        """
        cause, self.cause = self.cause, None
        if cause is None:
            return
        if self.done >= self.max_rollbacks:
            raise NonFiniteError(
                f"{cause}; the run has gone back {self.done} times already (max_rollbacks); the weights are those "
                "before it; lower the learning rate or clip gradients, and go on from the last checkpoint"
            )
        saver = _saver(trainer)
        assert saver is not None
        found = newest_finite(trainer, saver)
        done = self.done + 1
        if found is not None:
            path, checkpoint = found
            go_back(trainer, checkpoint)  # our own state, too, which alone must not
            if trainer.is_global_zero:
                remove_abandoned(saver.folder_of(trainer), trainer.global_step)
            how = f"gone back to {Path(path).name}"
        elif are_finite(trainer.lightning_module.parameters()):
            how = "no checkpoint is there yet, the step is left out"
        else:
            raise NonFiniteError(f"{cause}; no checkpoint has finite weights; save earlier, or lower the learning rate")
        self.done, self.left = done, self.skip_batches
        if trainer.is_global_zero:
            logger.warning("%s; %s (%d of %d)", cause, how, done, self.max_rollbacks)

    def state(self) -> dict[str, Any]:
        """What a resumed run has to know."""
        return {"done": self.done, "left": self.left}

    def load_state(self, stored: Mapping[str, Any]) -> None:
        """Go on counting."""
        self.done, self.left = stored["done"], stored["left"]


def _saver(trainer: Trainer) -> Checkpoint | None:
    callbacks: list[Any] = trainer.callbacks  # type: ignore[attr-defined]
    return next((callback for callback in callbacks if isinstance(callback, Checkpoint)), None)
