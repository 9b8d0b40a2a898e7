"""What a learning rate does after its warm-up, as pure functions: the factor of the peak rate at each step.

Each takes `step`, counted from the end of the warm-up, and `steps`, from there to the end of the run; it is never asked
for more than `steps`. Names and formulas are those of transformers' `get_*_schedule` and torch's `lr_scheduler`.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable


def constant(step: int, steps: int) -> float:
    """1."""
    del step, steps
    return 1.0


def linear(step: int, steps: int, *, min_ratio: float = 0.0) -> float:
    """A straight line from 1 to `min_ratio`."""
    return min_ratio + (1 - min_ratio) * (1 - progress(step, steps))


def cosine(step: int, steps: int, *, min_ratio: float = 0.0) -> float:
    """Half a cosine from 1 to `min_ratio` (Loshchilov & Hutter 2017, equation 5, without restarts)."""
    return min_ratio + (1 - min_ratio) * 0.5 * (1 + math.cos(math.pi * progress(step, steps)))


def polynomial(step: int, steps: int, *, power: float = 1.0, min_ratio: float = 0.0) -> float:
    """`(1 - progress) ** power`, from 1 to `min_ratio`."""
    return min_ratio + (1 - min_ratio) * math.pow(1 - progress(step, steps), power)


def exponential(step: int, steps: int, *, gamma: float) -> float:
    """`gamma ** step`, as torch's `ExponentialLR`."""
    del steps
    return gamma**step


def step(step: int, steps: int, *, step_size: int, gamma: float = 0.1) -> float:
    """`gamma ** (step // step_size)`, as torch's `StepLR`."""
    del steps
    return gamma ** (step // step_size)


def wsd(
    step: int,
    steps: int,
    *,
    decay_steps: int | None = None,
    decay_ratio: float = 0.2,
    decay_type: str = "linear",
    min_ratio: float = 0.0,
) -> float:
    """1, and in the last steps a decay to `min_ratio` (Hu et al. 2024, "MiniCPM"; Hägele et al. 2024).

    Args:
        step: From the end of the warm-up.
        steps: From there to the end of the run.
        decay_steps: Length of the decay; at most `steps`.
        decay_ratio: The same as a fraction of `steps`, where `decay_steps` is not given.
        decay_type: `linear`, `cosine`, or `1-sqrt` (`1 - sqrt(progress)`, Hägele et al., section 3.1).
        min_ratio: Factor at the end.
    """
    wanted = math.ceil(decay_ratio * steps) if decay_steps is None else decay_steps
    length = min(wanted, steps)
    if step < steps - length:
        return 1.0
    return DECAY_TYPES[decay_type](step - (steps - length), length, min_ratio)


def one_minus_root(step: int, steps: int, min_ratio: float) -> float:
    """`1 - sqrt(progress)`, from 1 to `min_ratio`."""
    return min_ratio + (1 - min_ratio) * (1 - math.sqrt(progress(step, steps)))


def progress(step: int, steps: int) -> float:
    """How much of the way is done, from 0 to 1."""
    return step / max(1, steps)


DECAYS: dict[str, Callable[..., float]] = {
    function.__name__: function for function in (constant, cosine, exponential, linear, polynomial, step, wsd)
}
DECAY_TYPES: dict[str, Callable[[int, int, float], float]] = {
    "linear": lambda step, steps, min_ratio: linear(step, steps, min_ratio=min_ratio),
    "cosine": lambda step, steps, min_ratio: cosine(step, steps, min_ratio=min_ratio),
    "1-sqrt": one_minus_root,
}
