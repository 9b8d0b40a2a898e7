"""Learning-rate schedules as pure functions of the step: warm-up, then a decay."""

from __future__ import annotations

import inspect
import math
from typing import TYPE_CHECKING, Any

from trustformers_pl.names import nearest
from trustformers_pl.optim.decays import DECAY_TYPES, DECAYS

if TYPE_CHECKING:
    from collections.abc import Callable


def lr_lambda(
    name: str, *, total_steps: int, warmup_steps: int = 0, warmup_ratio: float = 0.0, **shape: Any
) -> Callable[[int], float]:
    """The factor of the peak learning rate at a step, as `torch.optim.lr_scheduler.LambdaLR` takes it.

    Linear from 0 over the warm-up, then the named decay to `total_steps`; after it, what it was there.

    Args:
        name: `constant`, `linear`, `cosine`, `polynomial`, `exponential`, `step` or `wsd`; see
            `trustformers_pl.optim.decays`, which also says what else each takes.
        total_steps: Optimizer steps of the run.
        warmup_steps: Optimizer steps of warm-up.
        warmup_ratio: The same as a fraction of `total_steps`, rounded up; give one of the two.
        **shape: Of the decay: `min_ratio`, `power`, `gamma`, `step_size`, `decay_steps`, `decay_ratio`, `decay_type`.

    Raises:
        ValueError: An unknown name or decay type, or both lengths of the warm-up.
        TypeError: An argument that the decay does not take, or one that it lacks.
    """
    if name not in DECAYS:
        raise ValueError(f"no schedule {name!r}; {nearest(name, DECAYS)}")
    decay = DECAYS[name]
    inspect.signature(decay).bind(0, 1, **shape)
    if shape.get("decay_type", "linear") not in DECAY_TYPES:
        raise ValueError(f"no decay_type {shape['decay_type']!r}; {nearest(str(shape['decay_type']), DECAY_TYPES)}")
    if warmup_steps and warmup_ratio:
        raise ValueError("both warmup_steps and warmup_ratio are given; give one of the two")
    warmup = warmup_steps or math.ceil(warmup_ratio * total_steps)
    steps = max(0, total_steps - warmup)

    def factor(step: int) -> float:
        return step / warmup if step < warmup else decay(min(step - warmup, steps), steps, **shape)

    return factor


def get_lr(step: int, *, lr: float, name: str, total_steps: int, **schedule: Any) -> float:
    """The learning rate at a step.

    Args:
        step: Optimizer steps made before it.
        lr: The peak.
        name: Of the schedule.
        total_steps: Optimizer steps of the run.
        **schedule: What else `lr_lambda` takes.

    Raises:
        ValueError: As `lr_lambda` does.
        TypeError: As `lr_lambda` does.
    """
    return lr * lr_lambda(name, total_steps=total_steps, **schedule)(step)
