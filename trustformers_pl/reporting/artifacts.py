"""What a run has left beside its metrics: samples, checkpoints, times by phase, and the features' own sections."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

from trustformers_pl.reporting.extremes import best_of, direction
from trustformers_pl.reporting.markup import markdown, table, tag, text
from trustformers_pl.reporting.overview import duration

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from trustformers_pl.report import Cell
    from trustformers_pl.reporting.folder import RunFolder

MOST_SAMPLED_STEPS = 60
PHASES = {
    "data": "data loading",
    "compute": "forward and backward",
    "optimizer": "optimizer",
    "validation": "validation",
    "checkpoint": "checkpoints",
}
MEBIBYTE = 2**20


def samples(run: RunFolder) -> str:
    """The generated texts, step by step: a slider shows one step's."""
    steps = sorted({sample["step"] for sample in run.samples})
    kept = _spread(steps, MOST_SAMPLED_STEPS)
    blocks = []
    for step in kept:
        figures = [_sample(s) for s in run.samples if s["step"] == step]
        blocks.append(tag("div", "".join(figures), class_="sampled", data_step=str(step)))
    note = f" of {len(steps)} with samples" if len(kept) < len(steps) else ""
    head = tag(
        "div", '<label>step <input type="range" class="steps"></label> <output></output>' + text(note), class_="stepper"
    )
    return tag("div", head + "".join(blocks), class_="samples")


def _sample(sample: Mapping[str, Any]) -> str:
    prompt = tag("mark", text(sample["prompt"])) if sample["prompt"] else ""
    return tag("pre", prompt + text(sample["text"]))


def _spread(steps: list[int], most: int) -> list[int]:
    """At most so many of them, evenly, the first and the last included."""
    if len(steps) <= most:
        return steps
    return [steps[place * (len(steps) - 1) // (most - 1)] for place in range(most)]


def checkpoints(run: RunFolder) -> str:
    """Each checkpoint with its size and what the run had measured when it was taken; the best is marked."""
    name = monitored(run)
    values = [_value_at(run, name, row.step) for row in run.checkpoints] if name else []
    rows: list[list[Cell]] = [[row.name, row.step, round(row.size / MEBIBYTE, 2)] for row in run.checkpoints]
    marked: dict[tuple[int, int], str] = {}
    if name:
        rows = [[*row, value] for row, value in zip(rows, values, strict=True)]
        best = best_of(name, values)
        if best is not None:
            marked[best, 3] = "best"
    return table(["checkpoint", "step", "MiB", *([f"{name} then"] if name else [])], rows, marked=marked)


def monitored(run: RunFolder) -> str | None:
    """The validation metric that tells checkpoints apart: `val_loss`, or the first whose name says what is better."""
    names = [name for name in run.metrics if name.startswith("val_") and direction(name)]
    return "val_loss" if "val_loss" in names else next(iter(names), None)


def _value_at(run: RunFolder, name: str, step: int) -> float | None:
    """The last value that the run had when it had made `step` steps: logged at `step - 1` or before."""
    known = [y for x, y in zip(run.metrics[name].x, run.metrics[name].y, strict=True) if x < step]
    return known[-1] if known else None


def times(run: RunFolder) -> str:
    """Where the seconds went: a bar, and a table."""
    last = run.clock[-1]
    seconds = {shown: last[name] for name, shown in PHASES.items() if name in last}
    seconds["everything else"] = max(last["seconds"] - sum(seconds.values()), 0.0)
    whole = sum(seconds.values()) or 1.0
    parts = [
        tag("span", "", class_=f"c{place % 8}", style=f"width:{100 * value / whole:.3f}%", title=name)
        for place, (name, value) in enumerate(seconds.items())
    ]
    rows = "".join(
        f"<tr>{tag('td', tag('i', '', class_=f'swatch c{place % 8}') + text(name))}"
        f"{tag('td', text(duration(value)), class_='number')}"
        f"{tag('td', text(f'{100 * value / whole:.1f} %'), class_='number')}</tr>"
        for place, (name, value) in enumerate(seconds.items())
    )
    return tag("div", "".join(parts), class_="bar") + f'<div class="scroll"><table><tbody>{rows}</tbody></table></div>'


def section(content: Mapping[str, Any], first_chart: int, charts: int) -> str:
    """A feature's own section, as `report.json` has it.

    Args:
        content: The section.
        first_chart: The number of its first chart in the page's data.
        charts: How many it has.
    """
    parts = [markdown(str(content["text"]))] if content.get("text") else []
    if content.get("table"):
        rows = content["table"]["rows"]
        parts.append(table(content["table"]["columns"], rows, marked=heat(rows, content["table"].get("heat"))))
    if charts:
        places = range(first_chart, first_chart + charts)
        parts.append(
            tag("div", "".join(tag("div", "", class_="chart", data_chart=str(n)) for n in places), class_="charts")
        )
    return "".join(parts)


HEATS = 10


def heat(rows: Sequence[Sequence[Any]], limits: Sequence[float] | None) -> dict[tuple[int, int], str]:
    """The classes that shade the fractional numbers of a table: a heat map.

    Args:
        rows: Cells.
        limits: The numbers without shade and with all of it; None shades nothing.

    Returns:
        (row, column) -> `heat h0` to `heat h10`.
    """
    if limits is None:
        return {}
    low, high = limits
    return {
        (r, c): f"heat h{round(min(max((cell - low) / (high - low), 0.0), 1.0) * HEATS)}"
        for r, row in enumerate(rows)
        for c, cell in enumerate(row)
        if isinstance(cell, float) and math.isfinite(cell)
    }
