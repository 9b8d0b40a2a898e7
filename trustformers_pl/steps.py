"""Who runs a training step: the `step` slot, and its default, the sequential executor."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, Protocol

from trustformers_pl.errors import PluginError, RefusedError

if TYPE_CHECKING:
    from collections.abc import Callable

    from torch import Tensor

    from trustformers_pl.decomposed import DecomposedLoss

    Counted = Literal["loss", "weights"] | Callable[[Any, Any], Tensor | float]


# What a composable module's steps return and log under names of their own.
OF_THE_LOSS = ("loss", "loss_sum", "count", "train_loss", "val_loss", "test_loss")


@dataclass(slots=True)  # not frozen: one is made at every step, and freezing costs more than its four attributes
class Contribution:
    """A part of what a step minimises: a sum over elements, their number, and the weight of its mean.

    Attributes:
        sum: Scalar tensor, differentiable.
        count: Scalar tensor or number.
        weight: Factor of the mean in the total.
        counted: What is counted, as in `LossTerm.count`; None where nobody said so.
    """

    sum: Tensor
    count: Tensor
    weight: float = 1.0
    counted: Counted | None = None

    @property
    def mean(self) -> Tensor:
        """The mean, detached."""
        return (self.sum / self.count).detach()


@dataclass(frozen=True)
class LossTerm:
    """One named addition to the module's loss.

    What is minimised is `loss sum / loss count + weight * sum / count`, each over all micro-batches and data ranks of
    an optimizer step.

    Attributes:
        name: Under which the term's mean is logged.
        compute: `(module, outputs, batch) -> (sum, count)`, both scalar tensors: the sum of the term over its
            elements and their number, so that any executor can divide by a global count.
        weight: Factor of the term's mean in the total loss.
        count: What the term counts; needed where gradients are accumulated. `"loss"`: the elements of the loss, or a
            fixed multiple of them. `"weights"`: the term looks at no data, and counts the same for every batch.
            Otherwise a function `(module, batch) -> count` that gives the count of `compute` before the forward pass,
            from the batch as the loader gave it; the module then needs `loss_count(batch)`, which does so for its loss.

    Raises:
        RefusedError: The name is one of `OF_THE_LOSS`.
        PluginError: `count` is none of these.
    """

    name: str
    compute: Callable[[Any, Any, Any], tuple[Tensor, Tensor]]
    weight: float = 1.0
    count: Counted | None = None

    def __post_init__(self) -> None:
        if self.name in OF_THE_LOSS:
            raise RefusedError(
                f"loss term {self.name!r}: {', '.join(OF_THE_LOSS)} are names of the module's own; rename the term"
            )
        if not (self.count in (None, "loss", "weights") or callable(self.count)):
            raise PluginError(
                f'loss term {self.name!r}: count = {self.count!r}: give "loss", "weights", or a function '
                "(module, batch) -> count"
            )


@dataclass(frozen=True)
class SampleWeights:
    """One named factor of every sample's loss.

    Attributes:
        name: Of the feature that weighs.
        compute: `(module, batch) -> (B,)`, a weight for each sample of the batch. Several are multiplied.
    """

    name: str
    compute: Callable[[Any, Any], Tensor]


Minimised = dict[str, Contribution]


class StepExecutor(Protocol):
    """Runs one training step of a composable module: the slot that pipelines, episodes or rollouts may own."""

    def __call__(self, module: DecomposedLoss, batch: Any) -> tuple[Tensor, Minimised]:
        """Compute the step.

        Args:
            module: The composable module; `module.contributions(outputs, batch)` gives its loss and all loss terms,
                `module.weigh(contributions)` the scalar to differentiate.
            batch: What the dataloader gave.

        Returns:
            The scalar that Lightning differentiates, and the contributions that it was made of, for logging.
        """


def sequential(module: DecomposedLoss, batch: Any) -> tuple[Tensor, Minimised]:
    """Forward, loss and loss terms one after another, in one process: the default owner of the `step` slot."""
    contributions = module.contributions(module(batch), batch)
    return module.weigh(contributions), contributions
