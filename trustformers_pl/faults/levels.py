"""The levels of several noisy series that belong together: what lies far above its own, and when that is a new one."""

from __future__ import annotations

import math
from collections import deque
from typing import TYPE_CHECKING, Any

from trustformers_pl.faults.robust_level import limit

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping


class Levels:
    """Windows of the last ordinary values of each series, and the values that were out of the ordinary, in a row.

    Args:
        names: Of the series.
        factor: How far above the median a value is out of the ordinary (see `limit`).
        window: Values.
        max_consecutive: So many out of the ordinary in a row are the new level: the windows start anew with them.

    Attributes:
        in_a_row: What was out of the ordinary since the last ordinary values.
    """

    def __init__(self, names: Iterable[str], factor: float, window: int, max_consecutive: int) -> None:
        self._factor, self._window, self._max_consecutive = factor, window, max_consecutive
        self._known: dict[str, deque[float]] = {name: deque(maxlen=window) for name in names}
        self.in_a_row: list[dict[str, float]] = []

    def take(self, values: Mapping[str, float]) -> tuple[str, float] | None:
        """Take up one value of each series, all of one time.

        Returns:
            The first series whose value is above its limit, or not finite, and the limit; None where all are ordinary,
            or have just become the new level.
        """
        far = [(name, highest) for name, value in values.items() if not value <= (highest := self._highest(name))]
        if not far:
            self.in_a_row = []
            self._extend([values])
            return None
        self.in_a_row.append(dict(values))
        if len(self.in_a_row) < self._max_consecutive:
            return far[0]
        for known in self._known.values():
            known.clear()
        self._extend(self.in_a_row)
        self.in_a_row = []
        return None

    def _extend(self, rows: Iterable[Mapping[str, float]]) -> None:
        for row in rows:
            for name, value in row.items():
                if math.isfinite(value):
                    self._known[name].append(value)

    def _highest(self, name: str) -> float:
        """The largest value that is ordinary; infinity while half the window is not yet known."""
        known = self._known[name]
        return limit(known, self._factor) if len(known) >= max(self._window // 2, 1) else math.inf

    def state(self) -> dict[str, Any]:
        """What a resumed run has to know."""
        known = {name: list(values) for name, values in self._known.items()}
        return {"known": known, "in_a_row": [dict(row) for row in self.in_a_row]}

    def load_state(self, stored: Mapping[str, Any]) -> None:
        """Go on from it; series that were not looked at then begin anew, and values in a row with them."""
        for name, known in self._known.items():
            known.clear()
            known.extend(stored["known"].get(name, ()))
        rows = stored["in_a_row"]
        self.in_a_row = [dict(row) for row in rows] if all(row.keys() == self._known.keys() for row in rows) else []
