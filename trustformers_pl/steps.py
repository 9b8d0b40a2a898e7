"""Who runs a training step: the `step` slot, and its default, the sequential executor."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    from collections.abc import Callable

    from torch import Tensor

    from trustformers_pl.decomposed import DecomposedLoss


@dataclass(frozen=True)
class LossTerm:
    """One named addition to the module's loss.

    Attributes:
        name: Under which the term's mean is logged.
        compute: `(module, outputs, batch) -> (sum, count)`, both scalar tensors: the sum of the term over its
            elements and their number, so that any executor can divide by a global count.
        weight: Factor of the term's mean in the total loss.
    """

    name: str
    compute: Callable[[Any, Any, Any], tuple[Tensor, Tensor]]
    weight: float = 1.0


class StepExecutor(Protocol):
    """Runs one training step of a composable module: the slot that pipelines, episodes or rollouts may own."""

    def __call__(self, module: DecomposedLoss, batch: Any) -> dict[str, Tensor]:
        """Compute the step.

        Args:
            module: The composable module.
            batch: What the dataloader gave.

        Returns:
            `loss` (scalar, to be differentiated), `loss_sum` and `count` of the module's own loss, and the mean of
            each loss term under its name.
        """


def sequential(module: DecomposedLoss, batch: Any) -> dict[str, Tensor]:
    """Forward, loss and loss terms one after another, in one process: the default owner of the `step` slot."""
    outputs = module(batch)
    loss_sum, count = module.loss(outputs, batch)
    total = loss_sum / count
    means = {}
    for term in module.loss_terms:
        term_sum, term_count = term.compute(module, outputs, batch)
        mean = term_sum / term_count
        total = total + term.weight * mean
        means[term.name] = mean.detach()
    return {"loss": total, "loss_sum": loss_sum.detach(), "count": count, **means}
