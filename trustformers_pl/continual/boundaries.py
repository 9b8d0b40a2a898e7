"""When a new task begins, from the loss alone: a test for a level that rises."""

from __future__ import annotations

from dataclasses import dataclass, replace
from statistics import median


@dataclass(frozen=True)
class Level:
    """What is known of a stream of losses since the last boundary.

    Attributes:
        first: The first losses, until there are enough of them to tell level and spread.
        centre: The level, a running mean.
        spread: How far losses usually are from it, a running mean of the distance.
        risen: The test's sum g, in spreads.
        seen: Losses since the last boundary.
    """

    first: tuple[float, ...] = ()
    centre: float = 0.0
    spread: float = 0.0
    risen: float = 0.0
    seen: int = 0


def observed(
    level: Level,
    loss: float,
    *,
    threshold: float = 20.0,
    drift: float = 1.0,
    warm_up: int = 20,
    memory: float = 0.05,
) -> tuple[Level, bool]:
    """Take one more loss, and say whether it shows that a new task has begun.

    The one-sided cumulative sum of Page 1954, "Continuous Inspection Schemes", section 2: g = max(0, g + z - drift), an
    alarm where g > threshold, with z = (loss - level) / spread. Level and spread begin as median and mean distance from
    it of the first losses, and follow the losses as exponential means: a loss that falls while a task is learned takes
    the level with it. One loss counts at most threshold / 4, so that a few outliers are no boundary.

    Args:
        level: After the losses before; `Level()` at the start.
        loss: Of a step, or a mean over some steps. What is not finite is left out.
        threshold: Of the sum, in spreads: higher ones find fewer false boundaries, later.
        drift: How many spreads above the level are usual.
        warm_up: Losses at the start, and after a boundary, from which the level is told, without an answer.
        memory: Weight of the newest loss in level and spread.

    Returns:
        The level now, which starts anew after a boundary; and whether there is one.
    """
    if loss - loss != 0:  # infinite, or no number
        return level, False
    if level.seen < warm_up:
        return _warmed(level, loss, warm_up), False
    distance = loss - level.centre
    z = min(distance / max(level.spread, 1e-12), threshold / 4)
    risen = max(0.0, level.risen + z - drift)
    if risen > threshold:
        return Level(first=(loss,), seen=1), True
    if risen > threshold / 4:  # a rise that goes on must not become the level before it is found
        memory *= 0.1
    centre = level.centre + memory * distance
    spread = level.spread + memory * (min(abs(distance), 3 * level.spread) - level.spread)
    return Level((), centre, spread, risen, level.seen + 1), False


def _warmed(level: Level, loss: float, warm_up: int) -> Level:
    first = (*level.first, loss)
    if len(first) < warm_up:
        return replace(level, first=first, seen=len(first))
    centre = median(first)
    return Level((), centre, sum(abs(one - centre) for one in first) / len(first), 0.0, warm_up)
