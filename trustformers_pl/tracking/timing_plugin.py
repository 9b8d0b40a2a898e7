"""The section `timing`."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from trustformers_pl.hookspecs import hookimpl
from trustformers_pl.parts import Part, part
from trustformers_pl.plugins import Plugin
from trustformers_pl.report import ReportSection, ReportTable

if TYPE_CHECKING:
    from trustformers_pl.plan import Plan
    from trustformers_pl.run import Run

FILE = "times.jsonl"


class TimingPlugin(Plugin):
    """Seconds by phase (data, compute, optimizer, validation, checkpoint), and the report's time axis."""

    @dataclass(frozen=True, kw_only=True)
    class Config:
        """The `timing` section."""

        every_seconds: float = 5.0
        """Least time between two lines of `times.jsonl`; there is one more after every validation, and at the end."""

        def __post_init__(self) -> None:
            """Refuse what is no time."""
            if not self.every_seconds >= 0:
                raise ValueError("every_seconds must not be negative")

    config: Config

    @hookimpl
    def callbacks(self, plan: Plan) -> list[Part]:
        """The callback that reads the clock."""
        folder, every = str(plan.folder), self.config.every_seconds
        return [part("trustformers_pl.tracking:PhaseTimer", folder=folder, every_seconds=every)]

    @hookimpl
    def probe(self, run: Run) -> str | None:
        """The phases that took time."""
        last = _last(run)
        spent = [name for name, value in last.items() if name not in ("step", "seconds") and value > 0]
        return f"timed: {', '.join(spent)}" if spent else None

    @hookimpl
    def report(self, run: Run) -> list[ReportSection]:
        """Seconds by phase."""
        last = _last(run)
        if not last:
            return []
        whole = last["seconds"] or 1.0
        rows = [(name, value, f"{100 * value / whole:.1f} %") for name, value in last.items() if name != "step"]
        return [ReportSection("Time by phase", table=ReportTable(["phase", "seconds", "share"], rows), source=FILE)]


def _last(run: Run) -> dict[str, Any]:
    path = run.folder / FILE
    lines = path.read_text(encoding="utf-8").splitlines() if path.exists() else []
    return dict(json.loads(lines[-1])) if lines else {}
