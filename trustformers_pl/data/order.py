"""Counter-based randomness: every draw follows from its coordinates, so a resumed run has nothing to restore."""

from __future__ import annotations

from hashlib import blake2b
from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from torch import Tensor


def counter_seed(*parts: int | str) -> int:
    """Hash coordinates such as (seed, epoch, sample) to a seed.

    Counter-based as in Salmon et al. 2011, "Parallel Random Numbers: As Easy as 1, 2, 3", with BLAKE2b (RFC 7693) as
    the mixing function: equal on every machine and Python version, unlike `hash`.

    Args:
        parts: The coordinates. `1` and `"1"` are different.

    Returns:
        An integer in [0, 2**64).
    """
    return int.from_bytes(blake2b(repr(parts).encode(), digest_size=8).digest(), "little")


def epoch_order(length: int, *, seed: int, epoch: int, shuffle: bool) -> Tensor:
    """The order in which one epoch visits a dataset, without touching any global state.

    Args:
        length: Number of samples.
        seed: The run's seed.
        epoch: Which epoch, from 0.
        shuffle: Whether to permute; otherwise 0, 1, 2, ...

    Returns:
        (length,) int64: each index once.
    """
    if not shuffle:
        return torch.arange(length)
    generator = torch.Generator().manual_seed(counter_seed(seed, "order", epoch))
    return torch.randperm(length, generator=generator)
