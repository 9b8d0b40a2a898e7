"""What dark experience replay adds to a step: the distance to kept logits, and weights that tell samples apart."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch

from trustformers_pl.continual.distillation import der_loss
from trustformers_pl.errors import RefusedError
from trustformers_pl.steps import LossTerm, SampleWeights

if TYPE_CHECKING:
    from collections.abc import Mapping

    from torch import Tensor

NAME = "der"
MARK = "replay"
"""The key of a batch's (B, 3) int64: of each row its kind, its place among those of its kind, and whether it counts."""
OWN, DARK, LABELLED = range(3)


class DarkLoss:
    """The loss term and the sample weights, for a memory that a callback fills.

    Attributes:
        alpha: Weight of the distance to kept logits.
        beta: Weight of the loss of replayed samples (DER++); 0 has none.
        logits: (R, ..., C), those kept of the rows that are replayed in this step.
        answers: Place -> logits (..., C) of each new row of this step.
        numbers: How many rows the step's batch has of each kind.
    """

    def __init__(self, alpha: float, beta: float = 0.0) -> None:
        self.alpha, self.beta = alpha, beta
        self.begin(None, [0, 0, 0])

    def begin(self, logits: Tensor | None, numbers: list[int]) -> None:
        """Make ready for a batch."""
        self.logits, self.numbers = logits, numbers
        self.answers: dict[int, Tensor] = {}

    def compute(self, module: Any, outputs: Any, batch: Any) -> tuple[Tensor, Tensor]:
        """The distance to kept logits, summed over the rows that have some; remembers the answers to new rows.

        `der_loss` for each row, with all of its positions; the count is the number of rows.

        Args:
            module: The module.
            outputs: Logits (B, ..., C).
            batch: With the mark.

        Raises:
            RefusedError: The module's outputs are no tensor with a row for each sample.
        """
        if not isinstance(outputs, torch.Tensor) or not outputs.ndim or len(outputs) != len(batch[MARK]):
            raise RefusedError("der: forward(batch) must give logits (B, ..., C), a tensor with a row for each sample")
        kinds, places, _ = batch[MARK].unbind(1)
        own = kinds == OWN
        self.answers.update(zip(places[own].tolist(), outputs.detach()[own], strict=True))
        count = self.count(module, batch)
        dark = kinds == DARK
        if self.logits is None or not bool(dark.any()):
            return outputs.new_zeros((), dtype=torch.promote_types(outputs.dtype, torch.float32)), count
        kept = self.logits.to(outputs.device)[places[dark]]
        return der_loss(outputs[dark], kept)[0], count

    def count(self, module: Any, batch: Mapping[str, Tensor]) -> Tensor:
        """The number of rows with kept logits; 1 for a whole batch without any, so that their mean is 0."""
        del module
        return batch[MARK][:, 2].sum()

    def weights(self, module: Any, batch: Mapping[str, Tensor]) -> Tensor:
        """(B,): what makes the loss of the batch that of its new rows plus beta times that of its labelled rows.

        The loss is divided by the count of all rows, so that new rows weigh (all rows) / (new rows), labelled ones beta
        * (all rows) / (labelled rows), and rows with kept logits nothing. Exact where every row counts as many
        elements.
        """
        del module
        own, _, labelled = self.numbers
        total = sum(self.numbers)
        of_kinds = torch.tensor([total / max(own, 1), 0.0, self.beta * total / max(labelled, 1)])
        return of_kinds.to(batch[MARK].device)[batch[MARK][:, 0]]

    def __getstate__(self) -> dict[str, Any]:
        """Without the step that it is in."""
        return {**vars(self), "logits": None, "answers": {}}


def dark_term(alpha: float) -> LossTerm:
    """The term `der`, for a module's `loss_terms`."""
    loss = DarkLoss(alpha)
    return LossTerm(NAME, loss.compute, alpha, loss.count)


def dark_weights() -> SampleWeights:
    """The weights of new and labelled rows, for a module's `sample_weights`; the callback joins them to its term."""
    return SampleWeights(NAME, DarkLoss(0.0).weights)


def owner_of(part: LossTerm | SampleWeights) -> Any:
    """The object whose method a loss term or sample weights call; None for a function."""
    return getattr(part.compute, "__self__", None)


def marks(numbers: list[int]) -> Tensor:
    """(B, 3) int64 of a batch with so many rows of each kind, kind after kind; counts add up over pieces of it."""
    kinds = torch.arange(len(numbers)).repeat_interleave(torch.tensor(numbers))
    places = torch.cat([torch.arange(number) for number in numbers])
    counted = (kinds == DARK).long()
    if not numbers[DARK]:
        counted[0] = 1
    return torch.stack([kinds, places, counted], 1)
