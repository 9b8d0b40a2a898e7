"""Early stopping: a run that no longer improves ends by itself."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from lightning.pytorch import callbacks
from lightning.pytorch.callbacks.early_stopping import EarlyStoppingReason

from trustformers_pl.errors import RefusedError

if TYPE_CHECKING:
    from lightning.pytorch import LightningModule, Trainer


class EarlyStopping(callbacks.EarlyStopping):
    """Lightning's `EarlyStopping`, which also goes on exactly after a resume, and says what there is to monitor.

    Prechelt 1998, "Early Stopping - But When?". Checked after each validation; it counts validations, not epochs.

    Args:
        monitor: A logged metric, `val_loss` say.
        min_delta: A smaller change is no improvement.
        patience: Validations without improvement after which the run stops.
        mode: `min` or `max`.
        threshold: Stop as soon as the metric is this good; never for that reason if None.
        divergence: Stop as soon as it is worse than this; never for that reason if None.
    """

    def __init__(
        self,
        monitor: str = "val_loss",
        *,
        min_delta: float = 0.0,
        patience: int = 3,
        mode: str = "min",
        threshold: float | None = None,
        divergence: float | None = None,
    ) -> None:
        super().__init__(
            monitor,
            min_delta,
            patience,
            mode=mode,
            stopping_threshold=threshold,
            divergence_threshold=divergence,
            check_on_train_epoch_end=False,
        )

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Look at the metric.

        Raises:
            RefusedError: Nobody has logged it.
        """
        if trainer.sanity_checking:
            return
        logged = trainer.callback_metrics
        if self.monitor not in logged:
            found = ", ".join(sorted(map(str, logged))) or "nothing"
            raise RefusedError(f"early_stopping.monitor = {self.monitor!r} is not logged; validations have {found}")
        super().on_validation_end(trainer, pl_module)

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Refuse a run that never validates, and stop one that had stopped before.

        Raises:
            RefusedError: There is no validation data, or it is switched off.
        """
        super().on_train_start(trainer, pl_module)
        if not trainer.enable_validation:
            raise RefusedError("early_stopping looks at validations, and this run has none; give it validation data")
        waiting = self.stopping_reason is EarlyStoppingReason.PATIENCE_EXHAUSTED and self.wait_count < self.patience
        if self.stopping_reason is not EarlyStoppingReason.NOT_STOPPED and not waiting:
            trainer.should_stop = True

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on counting, with the patience of this run."""
        super().load_state_dict({**state_dict, "patience": self.patience})
