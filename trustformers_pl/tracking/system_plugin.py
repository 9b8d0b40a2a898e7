"""The section `system`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from trustformers_pl.extras import lacking
from trustformers_pl.hookspecs import hookimpl
from trustformers_pl.parts import Part, part
from trustformers_pl.plugins import Plugin

if TYPE_CHECKING:
    from trustformers_pl.plan import Plan
    from trustformers_pl.run import Run


class SystemPlugin(Plugin):
    """Processor, memory, free disk and GPU of the machine, in the same loggers as the metrics."""

    @dataclass(frozen=True, kw_only=True)
    class Config:
        """The `system` section."""

        every_seconds: float = 10.0
        """Least time between two readings; logged steps in between repeat the last one."""

        def __post_init__(self) -> None:
            """Refuse what is no time."""
            if not self.every_seconds >= 0:
                raise ValueError("every_seconds must not be negative")

    config: Config

    @hookimpl
    def check(self, plan: Plan) -> list[str]:
        """Whether the library is there."""
        return lacking(plan, "system", ["psutil"])

    @hookimpl
    def callbacks(self, plan: Plan) -> list[Part]:
        """The callback that reads."""
        del plan
        return [part("trustformers_pl.tracking:SystemMetrics", every_seconds=self.config.every_seconds)]

    @hookimpl
    def probe(self, run: Run) -> str | None:
        """How often the machine was read."""
        callbacks: list[Any] = run.trainer.callbacks  # type: ignore[attr-defined]
        readings = sum(c.readings for c in callbacks if type(c).__name__ == "SystemMetrics")
        return f"{readings} readings" if readings else None
