"""Thinning keeps what the eye looks for; expected values are found by brute force."""

from __future__ import annotations

import math
import random

from trustformers_pl.reporting.extremes import best_of, extremes
from trustformers_pl.reporting.series import Series, thinned


def noisy(count: int) -> Series:
    draw = random.Random(0)
    values = [draw.gauss(0, 1) for _ in range(count)]
    values[count // 3], values[count // 2] = 50.0, math.nan
    return Series(list(range(count)), values)


def test_short_curves_stay_as_they_are() -> None:
    series = noisy(100)
    assert thinned(series, 100) is series


def test_every_spans_extremes_survive_in_order() -> None:
    series = noisy(10_007)
    few = thinned(series, 200)
    assert len(few.x) <= 200
    assert few.x == sorted(few.x)
    assert all(series.y[x] == y for x, y in zip(few.x, few.y, strict=True))
    for span in range(100):
        places = range(span * 10_007 // 100, (span + 1) * 10_007 // 100)
        values = [series.y[i] for i in places if not math.isnan(series.y[i])]
        kept = [y for x, y in zip(few.x, few.y, strict=True) if x in places]
        assert (min(kept), max(kept)) == (min(values), max(values))


def test_extremes_count_what_is_not_finite() -> None:
    found = extremes(Series([1, 2, 3, 4], [2.0, math.inf, 1.0, math.nan]))
    assert (found.least, found.least_at, found.greatest, found.greatest_at, found.strange) == (1.0, 3, 2.0, 1, 2)
    assert extremes(Series([1], [math.nan])).least is None


def test_best_is_said_only_where_better_has_a_meaning() -> None:
    assert best_of("val_loss", [2.0, 1.0, None]) == 1
    assert best_of("val_accuracy", [0.2, 0.1, math.nan]) == 0
    assert best_of("lr", [2.0, 1.0]) is None
    assert best_of("val_loss", [1.0, 1.0]) is None
