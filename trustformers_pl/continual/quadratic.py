"""A quadratic penalty of many past tasks as one: sum_t F_t (w - a_t)^2 = F (w - a)^2 + c, elementwise.

F = sum_t F_t, a = sum_t F_t a_t / F, c = sum_t F_t (a_t - a)^2: cost and memory do not grow with the number of tasks
(Huszar 2018, "Note on the quadratic penalties in elastic weight consolidation"). Kept is the centre a and not
B = F a: near the centre F w - B is a difference of nearly equal numbers, which float32 loses, F (w - a) is not.

All functions are elementwise on lists in the order of the parameters, so any of them may be DTensors, if those that
belong together are laid out alike.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

if TYPE_CHECKING:
    from collections.abc import Sequence


@dataclass(frozen=True)
class Quadratic:
    """One quadratic for each parameter.

    Attributes:
        curvature: F, in the parameters' shapes, not negative.
        centre: a, in the parameters' shapes.
        constant: c summed over all elements of all parameters, a float64 scalar on the CPU.
    """

    curvature: Sequence[Tensor]
    centre: Sequence[Tensor]
    constant: Tensor

    @classmethod
    def at(cls, weights: Sequence[Tensor], curvature: Sequence[Tensor]) -> Quadratic:
        """That of one task: its importances around copies of its weights, in the importances' types."""
        centre = [weight.detach().to(one.dtype, copy=True) for weight, one in zip(weights, curvature, strict=True)]
        return cls(list(curvature), centre, torch.zeros((), dtype=torch.double))


@torch.no_grad()
def merged(old: Quadratic, new: Quadratic, *, decay: float = 1.0, recentred: bool = False) -> Quadratic:
    """One quadratic for both, equal to their sum everywhere.

    Args:
        old: Of earlier tasks.
        new: Of the last task.
        decay: Factor of `old` (gamma in Schwarz et al. 2018).
        recentred: Put the centre at that of `new` and forget the constant: online EWC (Schwarz et al. 2018, "Progress
            & Compress", "online EWC").

    Returns:
        F' = decay F + G, a' = a + (G / F') (b - a), where F' = 0: b.
    """
    faded = torch._foreach_mul(list(old.curvature), decay)
    curvature = torch._foreach_add(faded, list(new.curvature))
    if recentred:
        return Quadratic(curvature, new.centre, torch.zeros((), dtype=torch.double))
    share = [_share(f, g) for f, g in zip(faded, new.curvature, strict=True)]
    apart = torch._foreach_sub(list(new.centre), list(old.centre))
    left = [(f * s * d.square()).sum() for f, s, d in zip(faded, share, apart, strict=True)]
    centre = [torch.lerp(a, b, s) for a, b, s in zip(old.centre, new.centre, share, strict=True)]
    return Quadratic(curvature, centre, old.constant * decay + new.constant + _added(left))


def _share(old: Tensor, new: Tensor) -> Tensor:
    total = old + new
    return torch.where(total > 0, new / total, torch.ones_like(total))


def _added(values: Sequence[Tensor]) -> Tensor:
    """Scalars added, whole where they are parts of shards, in float64 on the CPU."""
    whole = [value.full_tensor() if hasattr(value, "full_tensor") else value for value in values]
    return (
        torch.stack([value.double().cpu() for value in whole]).sum() if whole else torch.zeros((), dtype=torch.double)
    )


@torch.no_grad()
def penalty(weights: Sequence[Tensor], quadratic: Quadratic, strength: float) -> Tensor:
    """Strength / 2 (sum F (w - a)^2 + c), Kirkpatrick et al. 2017, equation 3.

    Returns:
        A float64 scalar on the CPU, whole also where weights are sharded.
    """
    off = torch._foreach_sub(list(weights), list(quadratic.centre))
    torch._foreach_mul_(off, off)
    torch._foreach_mul_(off, list(quadratic.curvature))
    return strength / 2 * (_added([one.sum() for one in off]) + quadratic.constant)


@torch.no_grad()
def add_gradient_(
    gradients: Sequence[Tensor], weights: Sequence[Tensor], quadratic: Quadratic, strength: float
) -> None:
    """Add the penalty's gradient, strength F (w - a), to gradients in place.

    A step of gradient descent with it is stable only where lr strength F < 2: see `implicit` for one without a bound.
    """
    off = torch._foreach_sub(list(weights), list(quadratic.centre))
    torch._foreach_addcmul_(list(gradients), off, list(quadratic.curvature), value=strength)
