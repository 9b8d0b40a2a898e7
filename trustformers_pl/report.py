"""The run's report: what a person reads when a fit has ended."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from trustformers_pl.run import Run

FILE = "report.md"


@dataclass(frozen=True)
class ReportSection:
    """One feature's part of the report.

    Attributes:
        title: Its heading.
        text: Markdown.
    """

    title: str
    text: str


def report_text(run: Run) -> str:
    """The report as Markdown: the run's end in numbers, then each feature's section in plugin order."""
    metrics = sorted((name, float(value)) for name, value in run.trainer.callback_metrics.items())
    lines = [f"# {run.assembly.plan.recipe.name}", "", f"{run.trainer.global_step} optimizer steps.", ""]
    if metrics:
        lines += ["| metric | last |", "|---|---|", *(f"| `{name}` | {value:.6g} |" for name, value in metrics)]
    for sections in run.assembly.plan.hook.report(run=run):
        for section in sections or ():
            lines += ["", f"## {section.title}", "", section.text.rstrip()]
    return "\n".join(lines) + "\n"
