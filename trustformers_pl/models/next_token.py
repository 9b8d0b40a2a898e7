"""The loss of models that predict the next token, from logits and aligned labels."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.nn import functional as F

from trustformers_pl.decomposed import DecomposedLoss
from trustformers_pl.errors import RefusedError

if TYPE_CHECKING:
    from collections.abc import Mapping

IGNORED = -100


class NextTokenLoss(DecomposedLoss):
    """Mixin for a LightningModule whose `forward(batch)` gives logits (B, T, V).

    `labels` (B, T) int64 are aligned with the positions that predict them: `labels[:, t]` is the token after
    `input_ids[:, t]`, and -100 is ignored.

    Attributes:
        vocab_size: V.
    """

    vocab_size: int

    if TYPE_CHECKING:  # given by LightningModule
        _trainer: Any

    def setup(self, stage: str) -> None:
        """Compare the vocabulary with that of the data, where the data module has a `vocab_size`.

        Raises:
            RefusedError: The data have tokens that the model lacks.
        """
        del stage
        tokens = getattr(getattr(self._trainer, "datamodule", None), "vocab_size", None)
        if tokens is not None and tokens > self.vocab_size:
            mend = self.vocabulary_mend(tokens)
            raise RefusedError(f"model: it knows {self.vocab_size} tokens, and the data's tokenizer {tokens}; {mend}")

    def vocabulary_mend(self, tokens: int) -> str:
        """What to do about data with more tokens than the model knows."""
        return f"set model.init_args.vocab_size={tokens}"

    def loss(
        self, outputs: Tensor, batch: Mapping[str, Tensor], sample_weights: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """Cross-entropy in nats.

        Args:
            outputs: (B, T, V), from `forward`.
            batch: Whose `labels` (B, T) are taken.
            sample_weights: (B,), factors of each row's loss.

        Returns:
            The sum over the labels that are not -100 (at least in float32), and their number: scalars.
        """
        labels = self.labels(batch)
        logits = outputs.flatten(0, 1).to(torch.promote_types(outputs.dtype, torch.float32))
        count = torch.count_nonzero(labels != IGNORED)
        if sample_weights is None:
            return F.cross_entropy(logits, labels.flatten(), ignore_index=IGNORED, reduction="sum"), count
        losses = F.cross_entropy(logits, labels.flatten(), ignore_index=IGNORED, reduction="none")
        return (losses.view_as(labels).sum(dim=1) * sample_weights).sum(), count

    def loss_count(self, batch: Mapping[str, Tensor]) -> Tensor:
        """The number of labels that are not -100: what `loss` counts, known before the forward pass."""
        return torch.count_nonzero(self.labels(batch) != IGNORED)

    def labels(self, batch: Mapping[str, Tensor]) -> Tensor:
        """The batch's `labels` (B, T)."""
        return batch["labels"]
