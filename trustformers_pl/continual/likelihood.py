"""Each sample's loss, as the Fisher information needs it: with labels of the data, or of the model itself."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.nn import functional as F

if TYPE_CHECKING:
    from collections.abc import Callable

IGNORED = -100


def cross_entropies(logits: Tensor, labels: Tensor) -> Tensor:
    """Each sample's negative log-likelihood in nats, at least in float32.

    Args:
        logits: (B, C) or (B, T, C).
        labels: (B,) or (B, T) int64; -100 is ignored.

    Returns:
        (B,): sums over positions.
    """
    wide = logits.to(torch.promote_types(logits.dtype, torch.float32))
    losses = F.cross_entropy(wide.flatten(0, -2), labels.flatten(), ignore_index=IGNORED, reduction="none")
    return losses.reshape(len(logits), -1).sum(1)


def empirical(labels: Callable[[Any], Tensor]) -> Callable[[Tensor, Any], Tensor]:
    """Losses for the empirical Fisher information: of the data's own labels.

    Args:
        labels: Takes them from a batch: (B,) or (B, T) int64.

    Returns:
        `losses(logits, batch)`, for `diagonal_fisher`.
    """

    def losses(outputs: Tensor, batch: Any) -> Tensor:
        return cross_entropies(outputs, labels(batch))

    return losses


def sampled(
    generator: torch.Generator, labels: Callable[[Any], Tensor] | None = None
) -> Callable[[Tensor, Any], Tensor]:
    """Losses for the Fisher information by its definition, with one label a position drawn from the model.

    Kunstner et al. 2019, "Limitations of the Empirical Fisher Approximation", section 2, estimated with one draw. In
    a sequence, every position is predicted from the data's own tokens before it.

    Args:
        generator: Of the draws, on the logits' device.
        labels: Takes labels from a batch, to leave out the positions where they are -100.

    Returns:
        `losses(logits, batch)`, for `diagonal_fisher`.
    """

    def losses(outputs: Tensor, batch: Any) -> Tensor:
        probabilities = outputs.detach().float().softmax(-1)
        drawn = torch.multinomial(probabilities.flatten(0, -2), 1, generator=generator).view(outputs.shape[:-1])
        if labels is not None:
            drawn = drawn.masked_fill(labels(batch) == IGNORED, IGNORED)
        return cross_entropies(outputs, drawn)

    return losses


def expected(outputs: Tensor, batch: Any) -> Tensor:
    """Losses for the exact Fisher information: the expectation over all C labels, at the price of C backward passes.

    Row c holds sqrt(p(c|x)) times -log p(c|x), the factor held constant: its squared gradient is what label c adds to
    E_c[(grad log p(c|x))^2]. With labels to ignore in the batch, leave those samples out beforehand.

    Args:
        outputs: Logits (B, C).
        batch: Not read.

    Returns:
        (C, B).

    Raises:
        ValueError: The logits have more dimensions: a sequence has C**T labels.
    """
    del batch
    if outputs.dim() != 2:
        raise ValueError(f"the exact expectation needs logits (B, C), not {tuple(outputs.shape)}; draw labels instead")
    log_probabilities = outputs.to(torch.promote_types(outputs.dtype, torch.float32)).log_softmax(-1)
    return (-(log_probabilities.detach() / 2).exp() * log_probabilities).T
