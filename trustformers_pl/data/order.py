"""Counter-based randomness: every draw follows from its coordinates, so a resumed run has nothing to restore."""

from __future__ import annotations

from hashlib import blake2b
from typing import TYPE_CHECKING, Any

import numpy as np
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


def counter_uniform(seed: int, counters: Tensor) -> Tensor:
    """A number in [0, 1) for each of many counters: SplitMix64's output number `counter` from a seed.

    Steele et al. 2014, "Fast Splittable Pseudorandom Number Generators", figure 13, whose state after k draws is known
    without making them.

    Args:
        seed: In [0, 2**64), as `counter_seed` gives it.
        counters: (...) int64, not negative.

    Returns:
        (...) float64 on the CPU: the upper 53 bits.
    """
    return torch.from_numpy((split_mix(seed, counters.cpu().numpy()) >> np.uint64(11)) * 2.0**-53)


def split_mix(seed: int, counters: np.ndarray[Any, Any]) -> np.ndarray[Any, np.dtype[np.uint64]]:
    """The 64 bits that `counter_uniform` takes its numbers from."""
    z = np.uint64(seed) + (counters.astype(np.uint64) + np.uint64(1)) * np.uint64(0x9E3779B97F4A7C15)
    for shift, factor in ((30, 0xBF58476D1CE4E5B9), (27, 0x94D049BB133111EB)):
        z = (z ^ (z >> np.uint64(shift))) * np.uint64(factor)
    mixed: np.ndarray[Any, np.dtype[np.uint64]] = z ^ (z >> np.uint64(31))
    return mixed


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
