"""Which curves share a chart, as the data of the page."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

from trustformers_pl.reporting.extremes import direction
from trustformers_pl.reporting.series import thinned

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from trustformers_pl.reporting.folder import RunFolder
    from trustformers_pl.reporting.series import Series

STAGES = ("train", "val", "test")
DIGITS = 7
COLOURS = 8
FIRST = ("loss", "perplexity", "bits_per_byte")
"""Charts that come before all others."""


def metric_charts(runs: Sequence[RunFolder]) -> list[dict[str, Any]]:
    """A chart for each quantity: training, validation and test of one share it, and so do the runs."""
    titles: dict[str, dict[str, None]] = {}
    names = dict.fromkeys(name for run in runs for name in run.metrics)
    numbered = _numbered(names)
    for name in names:
        titles.setdefault(numbered.get(name) or _quantity(name), {})[name] = None
    ordered = sorted(titles, key=_importance)
    return [_metric_chart(title, sorted(titles[title], key=_stage_place), runs) for title in ordered]


def _numbered(names: Iterable[str]) -> dict[str, str]:
    """Names that differ in a number at their end, as `task_accuracy_0`, and what is before it: as many as colours."""
    groups: dict[str, list[str]] = {}
    for name in names:
        start, _, number = name.rpartition("_")
        if start and number.isdecimal():
            groups.setdefault(start, []).append(name)
    return {name: start for start, group in groups.items() if 1 < len(group) <= COLOURS for name in group}


def _importance(title: str) -> int:
    """Losses, then whatever has a better and a worse, then the rest; within each, the order of the table."""
    if title in FIRST:
        return FIRST.index(title)
    return len(FIRST) if direction(title) else len(FIRST) + 1


def _metric_chart(title: str, names: Sequence[str], runs: Sequence[RunFolder]) -> dict[str, Any]:
    alone = len(runs) == 1
    series = [
        {
            "name": name if alone else f"{run.label}" if len(names) == 1 else f"{run.label}: {name}",
            "run": number,
            "colour": place if alone else number,
            "dashed": not alone and place > 0,
            **_points(run.metrics[name]),
        }
        for number, run in enumerate(runs)
        for place, name in enumerate(names)
        if name in run.metrics
    ]
    return {"title": title if len(names) > 1 else names[0], "x": "step", "metric": True, "series": series}


def section_charts(section: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The charts of a feature's section, as `report.json` has it."""
    charts: dict[str, dict[str, Any]] = {}
    for curve in section.get("curves", ()):
        title = str(curve["title"] or section["title"])
        chart = charts.setdefault(title, {"title": title, "x": str(curve["x_label"]), "metric": False, "series": []})
        points = {"x": list(curve["x"]), "y": [None if y is None else _short(float(y)) for y in curve["y"]]}
        place = len(chart["series"])
        chart["series"].append({"name": str(curve["name"]), "run": 0, "colour": place, "dashed": False, **points})
    return list(charts.values())


def clock(run: RunFolder) -> dict[str, list[float]] | None:
    """Steps and the seconds at which they were done; None where it was not recorded."""
    if len(run.clock) < 2:
        return None
    return {"step": [line["step"] for line in run.clock], "seconds": [line["seconds"] for line in run.clock]}


def _points(series: Series) -> dict[str, Any]:
    kept = thinned(series)
    more = {"rows": len(series.x)} if kept is not series else {}
    return {"x": kept.x, "y": [_short(y) for y in kept.y], **more}


def _short(value: float) -> float | None:
    return float(f"{value:.{DIGITS}g}") if math.isfinite(value) else None


def _quantity(name: str) -> str:
    stage, _, rest = name.partition("_")
    return rest if stage in STAGES and rest else name


def _stage_place(name: str) -> int:
    stage = name.partition("_")[0]
    return STAGES.index(stage) if stage in STAGES else len(STAGES)


def thinned_names(charts: Iterable[Mapping[str, Any]]) -> list[str]:
    """The curves of which the page has fewer points than the run."""
    return [
        f"{series['name']} ({series['rows']:,} rows)"
        for chart in charts
        for series in chart["series"]
        if "rows" in series
    ]
