"""Learning-rate schedules as pure functions of the step: the factor of the peak rate."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from trustformers_pl.names import nearest

if TYPE_CHECKING:
    from collections.abc import Callable


def _cosine(progress: float, min_ratio: float) -> float:
    return min_ratio + (1 - min_ratio) * 0.5 * (1 + math.cos(math.pi * progress))


DECAYS: dict[str, Callable[[float, float], float]] = {"cosine": _cosine}


def lr_lambda(name: str, *, warmup_steps: int, total_steps: int, min_ratio: float = 0.0) -> Callable[[int], float]:
    """The factor of the peak learning rate at a step, as `torch.optim.lr_scheduler.LambdaLR` takes it.

    Linear from 0 over `warmup_steps`, then the named decay to `min_ratio` at `total_steps`, constant after it.

    Args:
        name: `cosine` (Loshchilov & Hutter 2017, eq. 5, without restarts).
        warmup_steps: Optimizer steps of warm-up.
        total_steps: Optimizer steps of the run.
        min_ratio: Factor at the end.

    Raises:
        ValueError: An unknown name.
    """
    if name not in DECAYS:
        raise ValueError(f"no schedule {name!r}; {nearest(name, DECAYS)}")
    decay = DECAYS[name]

    def factor(step: int) -> float:
        if step < warmup_steps:
            return step / warmup_steps
        progress = (step - warmup_steps) / max(1, total_steps - warmup_steps)
        return decay(min(1.0, progress), min_ratio)

    return factor
