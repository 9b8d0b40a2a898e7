"""The run's report: what a feature says to a person when a fit has ended."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

    from trustformers_pl.run import Run

FILE = "report.md"
Cell = str | int | float | None


@dataclass(frozen=True)
class ReportTable:
    """A table of a section.

    Attributes:
        columns: The header.
        rows: As many cells each; numbers stand right, None is an empty cell.
        heat: The lowest and the highest number: `report.html` shades fractional numbers in between, a heat map.

    Raises:
        ValueError: A row has another number of cells.
    """

    columns: Sequence[str]
    rows: Sequence[Sequence[Cell]]
    heat: tuple[float, float] | None = None

    def __post_init__(self) -> None:
        """Refuse what is no table."""
        for row in self.rows:
            if len(row) != len(self.columns):
                raise ValueError(f"a row of {len(row)} cells in a table of {len(self.columns)} columns")


@dataclass(frozen=True)
class ReportCurve:
    """A curve of a section; curves of one title share a chart.

    Attributes:
        name: What it is called in the legend.
        x: Ascending.
        y: As many values; NaN and infinities are left out.
        title: Of the chart; the section's own where it is empty.
        x_label: What x is.

    Raises:
        ValueError: x and y have different lengths.
    """

    name: str
    x: Sequence[float]
    y: Sequence[float]
    title: str = ""
    x_label: str = "step"

    def __post_init__(self) -> None:
        """Refuse what is no curve."""
        if len(self.x) != len(self.y):
            raise ValueError(f"curve {self.name!r} has {len(self.x)} x and {len(self.y)} y")


@dataclass(frozen=True)
class ReportSection:
    """One feature's part of the report: any of a text, a table and curves, shown in this order.

    Attributes:
        title: Its heading.
        text: Markdown.
        table: Below the text.
        curves: Drawn in `report.html`; in `report.md` the last value of each.
        source: A file or folder of the run folder from which `report.html` shows the same and more by itself
            (`samples.jsonl`, `checkpoints`): there this section is left out.
    """

    title: str
    text: str = ""
    table: ReportTable | None = None
    curves: Sequence[ReportCurve] = ()
    source: str | None = None


def report_sections(run: Run) -> list[ReportSection]:
    """Each feature's sections, in plugin order."""
    return [section for sections in run.assembly.plan.hook.report(run=run) for section in sections or ()]


def report_text(run: Run, sections: Sequence[ReportSection]) -> str:
    """The report as Markdown: the run's end in numbers, then the features' sections."""
    metrics = sorted((name, float(value)) for name, value in run.trainer.callback_metrics.items())
    lines = [f"# {run.assembly.plan.recipe.name}", "", f"{run.trainer.global_step} optimizer steps.", ""]
    if metrics:
        lines += ["| metric | last |", "|---|---|", *(f"| `{name}` | {value:.6g} |" for name, value in metrics)]
    for section in sections:
        lines += ["", f"## {section.title}", "", *_section_lines(section)]
    return "\n".join(lines) + "\n"


def _section_lines(section: ReportSection) -> list[str]:
    parts = [section.text.rstrip()] if section.text else []
    if section.table is not None:
        parts.append(_table_text(section.table))
    if section.curves:
        parts.append(
            "\n".join(f"- {c.name}: {c.y[-1]:.6g}" if len(c.y) else f"- {c.name}: empty" for c in section.curves)
        )
    return "\n\n".join(parts).split("\n")


def _table_text(table: ReportTable) -> str:
    head = [_row(table.columns), "|" + "---|" * len(table.columns)]
    return "\n".join([*head, *(_row(row) for row in table.rows)])


def _row(cells: Sequence[Cell]) -> str:
    return "| " + " | ".join(shown(cell).replace("|", "\\|").replace("\n", " ") for cell in cells) + " |"


def shown(cell: Cell) -> str:
    """A cell as text: floats with six significant digits, nothing for None."""
    if cell is None:
        return ""
    return f"{cell:.6g}" if isinstance(cell, float) else str(cell)
