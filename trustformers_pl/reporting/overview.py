"""The top of the page: what the runs are, how they ended, and their metrics in numbers."""

from __future__ import annotations

from datetime import datetime
from typing import TYPE_CHECKING, Any

from trustformers_pl.reporting.extremes import best_of, direction, extremes
from trustformers_pl.reporting.markup import table, tag, text

if TYPE_CHECKING:
    from collections.abc import Sequence

    from trustformers_pl.report import Cell
    from trustformers_pl.reporting.folder import RunFolder
    from trustformers_pl.reporting.series import Series

TILES = 4
"""Metrics that get a tile of their own."""
RUNNING = "running, or killed"


def status(run: RunFolder) -> str:
    """How the run's last fit ended: `completed`, `interrupted`, `failed`, `running, or killed`; empty if unknown."""
    legs = run.record.get("legs") or [{}]
    found = str(legs[-1].get("status", ""))
    return RUNNING if found == "running" else found


def headline(run: RunFolder, *, swatch: int | None = None) -> str:
    """A run's name and state on one line, and its error below."""
    mark = "" if swatch is None else tag("i", "", class_=f"swatch c{swatch % 8}")
    state = status(run)
    pill = tag("span", text(state), class_=f"pill {state.partition(',')[0]}") if state else ""
    error = (run.record.get("legs") or [{}])[-1].get("error")
    below = tag("p", text(error), class_="failure") if error else ""
    facts = tag("p", text(" · ".join(_facts(run))), class_="facts")
    return tag("div", f"{tag('h2', mark + text(run.label) + pill)}{facts}{below}", class_="run")


def _facts(run: RunFolder) -> list[str]:
    legs = run.record.get("legs") or []
    step = run.record.get("global_step")
    found = [] if step is None else [f"{step:,} optimizer steps"]
    if run.clock:
        found.append(f"{duration(run.clock[-1]['seconds'])} of training")
    if legs:
        found.append(f"{moment(legs[0]['began'])} to {moment(legs[-1].get('ended')) or 'now unknown'}")
    if len(legs) > 1:
        found.append(f"resumed {len(legs) - 1} times" if len(legs) > 2 else "resumed once")
    return found


def moment(stamp: Any) -> str:
    """An ISO time as a person writes it, in UTC; empty for none."""
    try:
        return datetime.fromisoformat(str(stamp)).strftime("%Y-%m-%d %H:%M:%S UTC")
    except ValueError:
        return ""


def duration(seconds: float) -> str:
    """Seconds as `1 h 02 min`, `3 min 20 s` or `4.2 s`."""
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(int(seconds), 60)
    return f"{minutes} min {rest:02} s" if minutes < 60 else f"{minutes // 60} h {minutes % 60:02} min"


def tiles(run: RunFolder) -> str:
    """The most telling metrics of a run: the best value where better has a meaning, else the last."""
    names = sorted(filter(direction, run.metrics), key=_rank)[:TILES] or list(run.metrics)[:TILES]
    return tag("div", "".join(_tile(name, run.metrics[name]) for name in names), class_="tiles") if names else ""


def _rank(name: str) -> int:
    stages = ["val_", "test_", "train_"]
    return next((place for place, prefix in enumerate(stages) if name.startswith(prefix)), len(stages))


def _tile(name: str, series: Series) -> str:
    found, sign = extremes(series), direction(name)
    best, at = (found.least, found.least_at) if sign < 0 else (found.greatest, found.greatest_at)
    if sign == 0 or best is None:
        value, note = found.last, f"last, of {len(series.x):,} values"
    else:
        value, note = best, f"{'lowest' if sign < 0 else 'highest'}, at step {at:,} · last {_figure(found.last)}"
    return tag(
        "div",
        tag("span", text(name), class_="name")
        + tag("b", text(_figure(value)))
        + tag("span", text(note), class_="note"),
        class_="tile",
    )


def _figure(value: float) -> str:
    return f"{value:,.0f}" if 10_000 <= abs(value) < 1e12 else f"{value:.4g}"


def metrics_table(run: RunFolder) -> str:
    """All metrics of one run: values, last, least and greatest with their steps."""
    rows: list[list[Cell]] = []
    for name, series in run.metrics.items():
        e = extremes(series)
        rows.append([name, len(series.x), e.last, e.least, e.least_at, e.greatest, e.greatest_at, e.strange or None])
    columns = ["metric", "values", "last", "lowest", "at step", "highest", "at step", "not finite"]
    kept = len(columns) if any(row[-1] for row in rows) else len(columns) - 1
    return table(columns[:kept], [row[:kept] for row in rows])


def final_table(runs: Sequence[RunFolder]) -> str:
    """The last value of every metric of several runs; the best is marked where its name says what is better."""
    names = list(dict.fromkeys(name for run in runs for name in _last(run)))
    rows: list[list[Cell]] = []
    marked: dict[tuple[int, int], str] = {}
    for r, name in enumerate(names):
        values = [_last(run).get(name) for run in runs]
        rows.append([name, *values])
        best = best_of(name, values)
        if best is not None:
            marked[r, best + 1] = "best"
    return table(["metric, last value", *(run.label for run in runs)], rows, marked=marked)


def _last(run: RunFolder) -> dict[str, float]:
    return {**{name: series.y[-1] for name, series in run.metrics.items()}, **run.outcome}


def history(run: RunFolder) -> str:
    """The fits that made the run: from where, when, and how each ended."""
    rows: list[list[Cell]] = [
        [leg.get("from") or "the start", moment(leg.get("began")), moment(leg.get("ended")), str(leg.get("status", ""))]
        for leg in run.record.get("legs") or []
    ]
    if len(rows) < 2:
        return ""
    for row in rows[:-1]:
        row[3] = "killed" if row[3] == "running" else row[3]
    return table(["went on from", "began", "ended", "end"], rows)
