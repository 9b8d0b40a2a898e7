"""From the states of a sequence's tokens to one vector."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor


def mean_pooling(x: Tensor, tokens: Tensor) -> Tensor:
    """The mean over the positions that are tokens.

    Args:
        x: (B, T, d).
        tokens: (B, T) bool, at least one true in each row.

    Returns:
        (B, d).
    """
    kept = tokens[:, :, None]
    return x.masked_fill(~kept, 0.0).sum(dim=1) / kept.sum(dim=1)


def cls_pooling(x: Tensor) -> Tensor:
    """The state of the first position: (B, T, d) to (B, d)."""
    return x[:, 0]
