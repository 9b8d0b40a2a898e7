"""Which steps of a run were its best by a metric of validations."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any, Literal


@dataclass
class Ranking:
    """The best values that validations have given, and at which steps.

    Attributes:
        monitor: The metric's name, as validations log it.
        mode: Whether less of it is better, or more.
        keep: How many are remembered.
        best: `(step, value)`, best first; of equal ones the earlier.
    """

    monitor: str = "val_loss"
    mode: Literal["min", "max"] = "min"
    keep: int = 1
    best: list[tuple[int, float]] = field(default_factory=list)

    def offer(self, step: int, value: float) -> bool:
        """Take up a value, if it is among the best; NaN never is. Returns whether it is."""
        if math.isnan(value):
            return False
        others = [entry for entry in self.best if entry[0] != step]
        sign = 1 if self.mode == "min" else -1
        self.best = sorted([*others, (step, value)], key=lambda entry: (sign * entry[1], entry[0]))[: self.keep]
        return (step, value) in self.best

    def value(self, step: int) -> float | None:
        """The value of a step, if it is one of the best."""
        return dict(self.best).get(step)

    def state(self) -> dict[str, Any]:
        """What a checkpoint keeps of it."""
        return {"monitor": self.monitor, "mode": self.mode, "best": [list(entry) for entry in self.best]}

    def load_state(self, state: dict[str, Any]) -> None:
        """Take over `state()`, unless it is of another metric."""
        if (state["monitor"], state["mode"]) == (self.monitor, self.mode):
            self.best = [(step, value) for step, value in state["best"]][: self.keep]

    def told(self) -> dict[str, Any]:
        """The best step so far, as JSON for a manifest."""
        if not self.best:
            return {}
        step, value = self.best[0]
        return {"best": {"monitor": self.monitor, "mode": self.mode, "step": step, "value": as_json(value)}}


def as_json(value: float) -> float | str:
    """A metric's value as JSON can hold it: infinite ones and NaN as text."""
    return value if math.isfinite(value) else repr(value)
