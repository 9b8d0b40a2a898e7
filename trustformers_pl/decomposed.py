"""Modules whose loss is taken apart into (sum, count), so that features can add to it and divide it right."""

from __future__ import annotations

from collections import Counter
from functools import reduce
from operator import mul
from typing import TYPE_CHECKING, Any

from trustformers_pl.errors import RefusedError
from trustformers_pl.steps import Contribution, LossTerm, Minimised, SampleWeights, StepExecutor, sequential

if TYPE_CHECKING:
    from torch import Tensor

    from trustformers_pl.loss_window import LossWindow

LOSS = "loss"


class DecomposedLoss:
    """Mixin that makes a LightningModule composable: write `forward(batch)` and `loss(outputs, batch)`, nothing else.

    *What* is computed enters through `loss_terms` and `sample_weights`; *how* a step runs is the executor in the `step`
    slot. Works in a stock `lightning.Trainer`: `class MyModule(DecomposedLoss, LightningModule)`; there each
    micro-batch's mean is differentiated. With `OrderedPrecision` in the Trainer, gradients are divided once, by the
    count of all micro-batches and ranks.

    A `loss(outputs, batch, sample_weights)` with that third argument, (B,) or None, can be weighted by sample: the sum
    is then of weighted losses, and the count that of the elements, unweighted.

    A module with `loss_count(batch)`, the count of `loss` for a batch as the loader gives it, can also accumulate
    gradients with loss terms that have counts of their own (see `LossTerm.count`).

    Attributes:
        loss_terms: Additions to the loss.
        sample_weights: Factors of each sample's loss.
        step_executor: The owner of the `step` slot.
        loss_window: Where sums and counts are kept until the gradients are divided; None divides at once.
    """

    loss_terms: tuple[LossTerm, ...] = ()
    sample_weights: tuple[SampleWeights, ...] = ()
    step_executor: StepExecutor = staticmethod(sequential)
    loss_window: LossWindow | None = None

    if TYPE_CHECKING:  # given by LightningModule, and by the module's author

        def __call__(self, batch: Any) -> Any: ...  # noqa: D102
        def log(self, *args: Any, **kwargs: Any) -> None: ...  # noqa: D102

        loss: Any  # (outputs, batch[, sample_weights]) -> (sum over the valid elements, their number)

    def contributions(self, outputs: Any, batch: Any) -> Minimised:
        """The module's own loss, under `loss`, and every loss term under its name.

        Raises:
            RefusedError: Two terms have one name.
        """
        weights = [weight.compute(self, batch) for weight in self.sample_weights] if self.sample_weights else ()
        loss_sum, count = self.loss(outputs, batch, *([reduce(mul, weights)] if weights else ()))
        found = {LOSS: Contribution(loss_sum, count)}
        if not self.loss_terms:
            return found
        for term in self.loss_terms:
            found[term.name] = Contribution(*term.compute(self, outputs, batch), term.weight, term.count)
        if len(found) <= len(self.loss_terms):
            (name, number), *_ = Counter(term.name for term in self.loss_terms).most_common()
            raise RefusedError(f"loss term {name!r}: {number} terms have this name; give each its own")
        return found

    def weigh(self, contributions: Minimised) -> Tensor:
        """The scalar to differentiate for these contributions of one micro-batch."""
        if self.loss_window is not None:
            return self.loss_window.weigh(contributions, self)  # type: ignore[arg-type]
        return sum(part.weight * part.sum / part.count for part in contributions.values())  # type: ignore[return-value]

    def training_step(self, batch: Any, batch_idx: int) -> dict[str, Tensor]:
        """Run the step slot's executor.

        Returns:
            `loss`, which Lightning differentiates; `loss_sum` and `count` of the module's own loss, and the mean of
            each loss term under its name, all detached.
        """
        del batch_idx
        loss, contributions = self.step_executor(self, batch)
        own = contributions[LOSS]
        means = {name: part.mean for name, part in contributions.items() if name != LOSS}
        return {"loss": loss, "loss_sum": own.sum.detach(), "count": own.count, **means}

    def measures(self, outputs: Any, batch: Any) -> dict[str, tuple[Tensor, Tensor]]:
        """What evaluations log besides the loss, by name: (sum over the valid elements, their number) of each."""
        del outputs, batch
        return {}

    def validation_step(self, batch: Any, batch_idx: int) -> dict[str, Tensor]:
        """Log `val_loss`, the mean over all valid elements of the validation set (nats, for a cross-entropy)."""
        del batch_idx
        return self._evaluated(batch, "val")

    def test_step(self, batch: Any, batch_idx: int) -> dict[str, Tensor]:
        """Log `test_loss`, likewise over the test set."""
        del batch_idx
        return self._evaluated(batch, "test")

    def _evaluated(self, batch: Any, stage: str) -> dict[str, Tensor]:
        outputs = self(batch)
        loss_sum, count = self.loss(outputs, batch)
        for name, (total, number) in {LOSS: (loss_sum, count), **self.measures(outputs, batch)}.items():
            # Lightning weighs by `batch_size` over batches and ranks: the mean over all elements is exact.
            self.log(f"{stage}_{name}", total / number, batch_size=int(number), sync_dist=True)
        return {"loss_sum": loss_sum, "count": count}
