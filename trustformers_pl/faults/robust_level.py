"""The level of a noisy series, and what lies far above it."""

from __future__ import annotations

import statistics
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

NORMAL = 1.4826
"""The median absolute deviation of a normal distribution times this is its standard deviation."""
FLOOR = 0.01
"""The spread is taken to be at least this part of the median: a series may stand still."""


def limit(values: Sequence[float], factor: float) -> float:
    r"""Median + factor · max(1.4826 · MAD, 0.01 · abs(median)): above it lies a spike.

    Median and median absolute deviation have a breakdown point of one half, so that spikes in the window do not hide
    the next one (Leys et al. 2013, "Detecting outliers: Do not use standard deviation around the mean").

    Args:
        values: Of the window, at least one.
        factor: In standard deviations of a normal distribution.
    """
    median = statistics.median(values)
    deviation = statistics.median(abs(value - median) for value in values)
    return median + factor * max(NORMAL * deviation, FLOOR * abs(median))
