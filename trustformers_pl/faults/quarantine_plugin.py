"""The section `quarantine`."""

from __future__ import annotations

from dataclasses import dataclass
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, ClassVar

from trustformers_pl.hookspecs import hookimpl
from trustformers_pl.parts import Part, part
from trustformers_pl.plugins import Plugin
from trustformers_pl.report import ReportSection, ReportTable

if TYPE_CHECKING:
    from collections.abc import Mapping

    from trustformers_pl.plan import Plan
    from trustformers_pl.run import Run

FILE = "quarantine.jsonl"


class QuarantinePlugin(Plugin):
    """Training samples that cannot be read: named, replaced by the next ones, and the run goes on."""

    example: ClassVar[Mapping[str, Any]] = MappingProxyType({"max_samples": 10})

    @dataclass(frozen=True, kw_only=True)
    class Config:
        """The `quarantine` section."""

        max_samples: int = 10
        """Different samples of the dataset that may be set aside; the next one ends the run. A few of them are damaged
        data, many a fault of the code that reads them."""

        def __post_init__(self) -> None:
            """Refuse what allows nothing."""
            if self.max_samples < 1:
                raise ValueError("max_samples must be at least 1; to allow none remove the section")

    config: Config

    @hookimpl
    def callbacks(self, plan: Plan) -> list[Part]:
        """The callback that replaces and lists them."""
        file = str(plan.folder / FILE)
        return [part("trustformers_pl.faults:Quarantine", max_samples=self.config.max_samples, file=file)]

    @hookimpl
    def probe(self, run: Run) -> str | None:
        """How many were set aside."""
        for callback in run.callbacks("Quarantine"):
            return f"set {len(callback.found)} samples aside" if callback.watches else None
        return None

    @hookimpl
    def report(self, run: Run) -> list[ReportSection]:
        """Those that were set aside."""
        found = [sample for callback in run.callbacks("Quarantine") for sample in callback.found.values()]
        rows = [(sample.index, sample.epoch, sample.cause) for sample in sorted(found, key=lambda one: one.index)]
        if not rows:
            return []
        table = ReportTable(["sample", "first met in epoch", "cause"], rows)
        return [ReportSection("Samples that could not be read", table=table)]
