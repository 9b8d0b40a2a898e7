"""Gradients averaged over data ranks after the backward pass, not during it."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from trustformers_pl.loss_window import data_ranks, sum_over_data_ranks

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from lightning import LightningModule
    from torch import Tensor

BUCKET = 25 * 2**20  # bytes, as DDP's


def average(gradients: Sequence[Tensor], module: LightningModule) -> None:
    """Replace gradients by their means over the ranks that see different data; in buckets. Collective.

    Args:
        gradients: Of any shapes, the same on all ranks.
        module: Whose Trainer knows the ranks.
    """
    ranks = data_ranks(module)
    for bucket in _buckets(gradients):
        # Divided first, as DDP does: the sum of many half-precision gradients may overflow.
        flat = torch.cat([gradient.reshape(-1) for gradient in bucket]).div_(ranks)
        parts = torch.split(sum_over_data_ranks(flat, module), [gradient.numel() for gradient in bucket])
        for gradient, part in zip(bucket, parts, strict=True):
            gradient.copy_(part.view_as(gradient))


def _buckets(gradients: Sequence[Tensor]) -> Iterator[list[Tensor]]:
    bucket: list[Tensor] = []
    for gradient in gradients:
        if bucket and (gradient.dtype != bucket[0].dtype or sum(one.nbytes for one in bucket) >= BUCKET):
            yield bucket
            bucket = []
        bucket.append(gradient)
    if bucket:
        yield bucket
