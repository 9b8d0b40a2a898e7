"""A LightningModule that was built without memory gets its values before it is used."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from trustformers_pl.deferred.filling import fill
from trustformers_pl.deferred.modules import deferred_record, note_values

if TYPE_CHECKING:
    from torch import nn


class DeferredModule:
    """Mixin for a LightningModule that was built by `deferred`.

    Its values are made when Lightning configures the model, unless the strategy has an attribute `fills_values` that is
    true: that one shards the module first, and calls `fill` itself.
    """

    def configure_model(self) -> None:
        """The module's own `configure_model`, then the values."""
        super().configure_model()  # type: ignore[misc]
        if not _strategy_fills(self):
            module: nn.Module = self  # type: ignore[assignment]
            note_values(module)
            fill(module)

    def cpu(self) -> Any:
        """As torch's; without values there is nothing to move, and Lightning does so after an error."""
        module: nn.Module = self  # type: ignore[assignment]
        return self if deferred_record(module) is not None else super().cpu()  # type: ignore[misc]


def _strategy_fills(module: Any) -> bool:
    """Whether a running Trainer's strategy does it; `generate` and `export` configure a module without running one."""
    trainer = getattr(module, "_trainer", None)
    if trainer is None or trainer.state.status != "running":
        return False
    return bool(getattr(trainer.strategy, "fills_values", False))
