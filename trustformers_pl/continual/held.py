"""Weights that a quadratic holds, and their gradients' way through it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from trustformers_pl.continual.implicit import ImplicitPenalty
from trustformers_pl.shards import are_sharded, local

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import Tensor

    from trustformers_pl.continual.quadratic import Quadratic


class HeldWeights:
    """Adds the penalty to the gradients of some weights, this rank's parts of them; what stays is found once.

    Args:
        weights: With gradients whenever `add` is called.
        quadratic: Of this rank's parts, in the order of the weights.
        strength: Its factor.
    """

    def __init__(self, weights: Sequence[Tensor], quadratic: Quadratic, strength: float) -> None:
        self._weights = list(weights)
        self._penalty = ImplicitPenalty(quadratic, strength)
        self._types = [centre.dtype for centre in quadratic.centre]
        self._plain = not are_sharded(weights) and all(
            weight.dtype == dtype for weight, dtype in zip(weights, self._types, strict=True)
        )

    def add(self, lr: float) -> None:
        """Make the penalty part of the gradients, in place.

        Args:
            lr: The step size.
        """
        gradients: list[Tensor] = [weight.grad for weight in self._weights]  # type: ignore[misc]
        if self._plain:
            self._penalty.add_(gradients, self._weights, lr)
            return
        gradients = [local(gradient) for gradient in gradients]
        wide = [gradient.to(dtype) for gradient, dtype in zip(gradients, self._types, strict=True)]
        weights = [local(weight).detach().to(dtype) for weight, dtype in zip(self._weights, self._types, strict=True)]
        self._penalty.add_(wide, weights, lr)
        for gradient, new in zip(gradients, wide, strict=True):
            if gradient is not new:  # of 16 bits
                gradient.copy_(new)
