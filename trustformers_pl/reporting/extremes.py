"""What of a curve stands in a table: its first, last, least and greatest value; and which of several runs is ahead."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

    from trustformers_pl.reporting.series import Series

LOWER = ("loss", "perplexity", "bits_per_byte", "error")
HIGHER = ("accuracy", "f1", "bleu", "rouge", "precision", "recall", "score")


@dataclass(frozen=True)
class Extremes:
    """Of the finite values of one metric.

    Attributes:
        last: The last value, finite or not.
        least: None where no value is finite.
        least_at: Its step.
        greatest: As `least`.
        greatest_at: Its step.
        strange: How many values are NaN or infinite.
    """

    last: float
    least: float | None
    least_at: int | None
    greatest: float | None
    greatest_at: int | None
    strange: int


def extremes(series: Series) -> Extremes:
    """Of a curve with at least one point; of equal values the first counts."""
    finite = [(y, x) for x, y in zip(series.x, series.y, strict=True) if math.isfinite(y)]
    strange = len(series.x) - len(finite)
    if not finite:
        return Extremes(series.y[-1], None, None, None, None, strange)
    least, greatest = min(finite), max(finite, key=lambda pair: pair[0])
    return Extremes(series.y[-1], *least, *greatest, strange)


def direction(name: str) -> int:
    """Which values of a metric are better: -1 lower ones, 1 higher ones, 0 where its name does not say."""
    if any(word in name for word in LOWER):
        return -1
    return 1 if any(word in name for word in HIGHER) else 0


def best_of(name: str, values: Sequence[float | None]) -> int | None:
    """The place of the best value; None where that cannot be said, or all are equal."""
    sign = direction(name)
    known = [(sign * value, -place) for place, value in enumerate(values) if value is not None and math.isfinite(value)]
    if sign == 0 or len(known) < 2 or len({value for value, _ in known}) == 1:
        return None
    return -max(known)[1]
