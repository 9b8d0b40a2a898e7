"""The order of a sampler that the user brought, the same each time it is asked for."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch

from trustformers_pl.data.order import counter_seed
from trustformers_pl.data.seeded import seeded

if TYPE_CHECKING:
    from torch import Tensor


def recalled(sampler: Any, *, seed: int, epoch: int) -> Tensor:
    """The order that a sampler gives an epoch, as a pure function of the seed and the epoch.

    The sampler draws from generators seeded for this epoch: the global ones, which are put back, and its own, where it
    has one under the attribute `generator`. One with `set_epoch` is told the epoch.

    Args:
        sampler: Of indices.
        seed: The run's seed.
        epoch: Which epoch, from 0.

    Returns:
        (M,) int64.
    """
    if hasattr(sampler, "set_epoch"):
        sampler.set_epoch(epoch)
    with seeded(seed, "sampler", epoch):
        if isinstance(own := getattr(sampler, "generator", None), torch.Generator):
            own.manual_seed(counter_seed(seed, "own sampler", epoch))
        return torch.tensor([int(index) for index in sampler], dtype=torch.int64)
