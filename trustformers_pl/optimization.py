"""The mixin by which the `optimizer` and `schedule` sections reach a LightningModule."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

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
        """The optimizer, and the schedule stepped after each of its steps."""
        optimizer = build(self.optimizer_part, {"module": self})
        if self.schedule_part is None:
            return {"optimizer": optimizer}
        total_steps = int(self.trainer.estimated_stepping_batches)
        schedule = self.schedule_part.build(optimizer=optimizer, total_steps=total_steps)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}
