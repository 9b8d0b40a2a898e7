"""The section `early_stopping`."""

from __future__ import annotations

from dataclasses import dataclass
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from trustformers_pl.hookspecs import hookimpl
from trustformers_pl.parts import Part, part
from trustformers_pl.plugins import Plugin

if TYPE_CHECKING:
    from collections.abc import Mapping

    from trustformers_pl.plan import Plan
    from trustformers_pl.run import Run


class EarlyStoppingPlugin(Plugin):
    """Ends the run when validations no longer improve."""

    example: ClassVar[Mapping[str, Any]] = MappingProxyType({"patience": 1, "min_delta": 100.0})

    @dataclass(frozen=True, kw_only=True)
    class Config:
        """The `early_stopping` section."""

        monitor: str = "val_loss"
        """A metric that validations log."""
        mode: Literal["min", "max"] = "min"
        """Whether less of it is better, or more."""
        patience: int = 3
        """Validations without improvement after which the run stops."""
        min_delta: float = 0.0
        """A smaller change is no improvement."""
        threshold: float | None = None
        """Stop as soon as the metric is this good."""
        divergence: float | None = None
        """Stop as soon as the metric is worse than this."""

        def __post_init__(self) -> None:
            """Refuse what has no meaning."""
            if self.patience < 1 or self.min_delta < 0:
                raise ValueError("patience must be at least 1, and min_delta must not be negative")

    config: Config

    @hookimpl
    def callbacks(self, plan: Plan) -> list[Part]:
        """The callback that looks at validations."""
        del plan
        return [part("trustformers_pl.optim:EarlyStopping", **self.written())]

    @hookimpl
    def probe(self, run: Run) -> str | None:
        """How long the run has waited."""
        for callback in run.callbacks("EarlyStopping"):
            if callback.best_score.isfinite():
                reason = callback.stopping_reason.name.lower().replace("_", " ")
                stopped = f"; {reason}" if callback.stopping_reason.value else ""
                best = float(callback.best_score)
                return f"best {callback.monitor} {best:.4g}, waited {callback.wait_count}{stopped}"
        return None
