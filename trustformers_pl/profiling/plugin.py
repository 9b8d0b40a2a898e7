"""The section `profile`."""

from __future__ import annotations

import json
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

SHOWN = 12


class ProfilePlugin(Plugin):
    """Where the time of a step goes, by torch's profiler, and how much of the device is used (MFU)."""

    example: ClassVar[Mapping[str, Any]] = MappingProxyType({"start_step": 1, "steps": 2})

    @dataclass(frozen=True, kw_only=True)
    class Config:
        """The `profile` section."""

        start_step: int = 10
        """Optimizer steps of this process before measuring; the first ones are slower."""
        steps: int = 3
        """Optimizer steps that are recorded. A trace has some megabytes a step."""
        peak_tflops: float | None = None
        """The device's peak in 10^12 operations a second; by default from its data sheet, or measured."""

        def __post_init__(self) -> None:
            """Refuse what measures nothing."""
            if self.start_step < 0 or self.steps < 1:
                raise ValueError("start_step must not be negative, and steps must be at least 1")
            if self.peak_tflops is not None and self.peak_tflops <= 0:
                raise ValueError(f"peak_tflops must be above 0, but is {self.peak_tflops}")

    config: Config

    @hookimpl
    def callbacks(self, plan: Plan) -> list[Part]:
        """The callback that measures."""
        return [part("trustformers_pl.profiling:Profile", str(plan.folder), **self.written())]

    @hookimpl
    def probe(self, run: Run) -> str | None:
        """What was counted and recorded."""
        for callback in run.callbacks("Profile"):
            if rows := _operators(run):
                return f"{callback.flops or 0:.3g} operations a batch, {len(rows)} operators recorded"
        return None

    @hookimpl
    def report(self, run: Run) -> list[ReportSection]:
        """The operators in which most time was spent, and the utilisation."""
        rows = _operators(run)
        if not rows:
            return []
        shown = [(r["name"], r["calls"], f"{r['microseconds'] / 1e3:.2f}", f"{r['share']:.1%}") for r in rows[:SHOWN]]
        table = ReportTable(("operator", "calls", "ms", "share"), shown)
        return [ReportSection("Where the time goes", _utilisation(run), table=table)]


def _utilisation(run: Run) -> str:
    for callback in run.callbacks("Profile"):
        mfu = run.trainer.callback_metrics.get("mfu")
        if callback.flops is not None and callback.peak is not None and mfu is not None:
            peak, source = callback.peak
            return (
                f"Model FLOPs utilisation {float(mfu):.1%}: {callback.flops / 1e9:.3g} GFLOP a batch, of a peak of "
                f"{peak / 1e12:.3g} TFLOP/s ({source})."
            )
    return ""


def _operators(run: Run) -> list[dict[str, Any]]:
    path = run.folder / "profile" / "operators.json"
    return json.loads(path.read_text(encoding="utf-8")) if path.exists() else []
