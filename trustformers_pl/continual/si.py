"""Synaptic intelligence: how much each weight's movement lowered the loss, collected while training.

Zenke et al. 2017, "Continual Learning Through Synaptic Intelligence". All functions are elementwise on lists in the
order of the parameters, so any of them may be DTensors, if those that belong together are laid out alike.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import Tensor


@dataclass
class PathIntegral:
    """The running sum omega of one task, and where the task began.

    Attributes:
        start: The weights when the task began.
        omega: sum_steps -g (w' - w), in the weights' shapes.
        before: The weights before the next step.
    """

    start: list[Tensor]
    omega: list[Tensor]
    before: list[Tensor] = field(default_factory=list)

    @classmethod
    @torch.no_grad()
    def at(cls, weights: Sequence[Tensor]) -> PathIntegral:
        """At the beginning of a task, in at least float32."""
        start = [weight.detach().to(torch.promote_types(weight.dtype, torch.float32), copy=True) for weight in weights]
        return cls(start, [torch.zeros_like(one) for one in start], [one.clone() for one in start])

    @torch.no_grad()
    def add_(self, gradients: Sequence[Tensor], weights: Sequence[Tensor]) -> None:
        """After an optimizer's step: omega -= g (w' - w), equation 3, whose integral is a sum over steps.

        Args:
            gradients: Of the loss alone, as before the step: neither clipped nor with the penalty.
            weights: After the step.
        """
        now = [weight.detach().to(one.dtype) for weight, one in zip(weights, self.omega, strict=True)]
        moved = torch._foreach_sub(now, self.before)
        wide = [gradient.to(one.dtype) for gradient, one in zip(gradients, self.omega, strict=True)]
        torch._foreach_addcmul_(self.omega, moved, wide, value=-1.0)
        for old, new in zip(self.before, now, strict=True):
            old.copy_(new)  # one by one: of lists, DTensor has no copy

    @torch.no_grad()
    def importance(self, weights: Sequence[Tensor], *, damping: float = 0.1) -> list[Tensor]:
        """One task's share of the regularisation strength: omega / ((w_end - w_start)^2 + xi), equation 5.

        Negative ones, of weights whose movement raised the loss, are 0 as in the authors' code: a quadratic with them
        would have no minimum. The paper's penalty is c sum Omega (w - w~)^2: `penalty` with strength 2 c.

        Args:
            weights: At the end of the task.
            damping: xi; the paper's 0.1 for MNIST, 1e-3 for CIFAR.
        """
        moved = [weight.detach().to(one.dtype) - one for weight, one in zip(weights, self.start, strict=True)]
        return [(w.clamp(min=0) / (d.square() + damping)) for w, d in zip(self.omega, moved, strict=True)]
