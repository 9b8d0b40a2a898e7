"""The curves of a run folder: its table of metrics, and the clock by which steps become seconds."""

from __future__ import annotations

import csv
import json
import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

from trustformers_pl.errors import TrustformersError

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

MOST_POINTS = 20_000
"""Of one curve in a page; longer ones are thinned to the least and the greatest value of each of half as many spans."""

NOT_METRICS = ("step", "epoch")


@dataclass
class Series:
    """One metric over steps.

    Attributes:
        x: Steps as the logger numbers them: k - 1 at the k-th optimizer step.
        y: Values; NaN and infinities are there.
    """

    x: list[int]
    y: list[float]


def read_metrics(folder: Path) -> dict[str, Series]:
    """The curves of all metrics in a run folder's table, in the order of its columns; empty without a table.

    The table is `metrics.csv`, or the first other `.csv` whose first column is `step`. A last row torn by a kill is
    passed over.

    Raises:
        TrustformersError: A row holds something else than numbers.
    """
    path = _table(folder)
    if path is None:
        return {}
    with path.open(newline="", encoding="utf-8", errors="replace") as file:
        rows = csv.reader(file)
        names = next(rows)
        found: dict[str, Series] = {name: Series([], []) for name in names if name not in NOT_METRICS}
        columns = [(place, found[name]) for place, name in enumerate(names) if name in found]
        try:
            _fill(columns, (row for row in rows if len(row) == len(names)))
        except ValueError as error:
            raise TrustformersError(
                f"{path}:{rows.line_num}: not a row of numbers ({error}); mend or remove it"
            ) from error
    return {name: series for name, series in found.items() if series.x}


def _fill(columns: list[tuple[int, Series]], rows: Iterable[list[str]]) -> None:
    for row in rows:
        step = int(row[0])
        for place, series in columns:
            if row[place]:
                series.y.append(float(row[place]))
                series.x.append(step)


def _table(folder: Path) -> Path | None:
    named = folder / "metrics.csv"
    for path in [named] if named.exists() else sorted(folder.glob("*.csv")):
        with path.open(encoding="utf-8", errors="replace") as file:
            if file.readline().rstrip("\r\n").split(",")[0] == "step":
                return path
    return None


def read_clock(folder: Path) -> list[dict[str, float]]:
    """The lines of `times.jsonl`, which the section `timing` writes: `step`, `seconds`, and seconds by phase.

    Raises:
        TrustformersError: A whole line is not one of these.
    """
    path = folder / "times.jsonl"
    found = []
    for number, line in enumerate(whole_lines(path), 1):
        try:
            found.append({str(key): float(value) for key, value in json.loads(line).items()})
            found[-1]["step"], found[-1]["seconds"]
        except (ValueError, TypeError, KeyError, AttributeError) as error:
            raise TrustformersError(f"{path}:{number}: not a line of times; remove the file") from error
    return found


def whole_lines(path: Path) -> list[str]:
    """The lines of a file that were written to their end; none where there is no file."""
    if not path.is_file():
        return []
    *lines, _torn = path.read_bytes().split(b"\n")
    return [line.decode("utf-8", errors="replace") for line in lines]


def thinned(series: Series, most: int = MOST_POINTS) -> Series:
    """A curve of at most `most` points: of each span of equally many points the least and the greatest, in order.

    Peaks survive, which a mean or every n-th point would lose. Values that are not finite are left out of spans that
    have finite ones.
    """
    count = len(series.x)
    if count <= most:
        return series
    spans = most // 2
    kept: list[int] = []
    for span in range(spans):
        indices = range(span * count // spans, (span + 1) * count // spans)
        finite = [i for i in indices if math.isfinite(series.y[i])] or list(indices)
        ends = {min(finite, key=series.y.__getitem__), max(finite, key=series.y.__getitem__)}
        kept += sorted(ends)
    return Series([series.x[i] for i in kept], [series.y[i] for i in kept])
