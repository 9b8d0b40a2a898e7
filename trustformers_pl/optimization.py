"""The mixin by which the `optimizer` and `schedule` sections reach a LightningModule."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

from trustformers_pl.errors import RefusedError
from trustformers_pl.parts import Part, build

if TYPE_CHECKING:
    from lightning import Trainer


class ConfiguredOptimizers:
    """Mixin whose `configure_optimizers` builds what the run declared.

    Attributes:
        optimizer_part: The optimizer, or a part with the free variable `module`.
        schedule_part: A part with the free variables `optimizer` and `total_steps`, or None.
    """

    optimizer_part: Part | Any
    schedule_part: Part | None

    if TYPE_CHECKING:  # given by LightningModule
        trainer: Trainer

    def configure_optimizers(self) -> dict[str, Any]:
        """The optimizer, and the schedule stepped after each of its steps.

        Raises:
            RefusedError: The schedule needs the number of steps, and the run has no end.
        """
        optimizer = build(self.optimizer_part, {"module": self})
        if self.schedule_part is None:
            return {"optimizer": optimizer}
        names = {"optimizer": optimizer}
        steps = self.trainer.estimated_stepping_batches
        if math.isfinite(steps):
            names["total_steps"] = int(steps)
        try:
            schedule = self.schedule_part.build(**names)
        except KeyError as error:
            if error.args != ("total_steps",):
                raise
            raise RefusedError(
                "schedule: its length is that of the run, which has no end; give trainer.max_steps or max_epochs, or "
                "the schedule's own num_training_steps"
            ) from None
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}
