"""Counter-based randomness: every draw follows from its coordinates, so a resumed run has nothing to restore."""

from __future__ import annotations

from hashlib import blake2b
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.utils.data import Sampler

if TYPE_CHECKING:
    from collections.abc import Iterator


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


class SeekableOrder(Sampler[tuple[int, Any]]):
    """The batches of one epoch as keys (epoch, indices), from a settable one on.

    Args:
        length: Number of samples.
        batch_size: Samples a batch; None makes each index, not in a list, a batch.
        seed: The run's seed.
        shuffle: Whether each epoch is permuted.
        drop_last: Whether an incomplete last batch is left out.

    Attributes:
        epoch: The epoch to iterate next.
        start: Its first batch.
    """

    def __init__(self, length: int, batch_size: int | None, *, seed: int, shuffle: bool, drop_last: bool) -> None:
        self.length = length
        self.batch_size = batch_size
        self.seed = seed
        self.shuffle = shuffle
        self.drop_last = drop_last
        self.epoch = 0
        self.start = 0

    def __len__(self) -> int:
        size = self.batch_size or 1
        return self.length // size if self.drop_last else -(-self.length // size)

    def __iter__(self) -> Iterator[tuple[int, Any]]:
        epoch, size = self.epoch, self.batch_size
        order = epoch_order(self.length, seed=self.seed, epoch=epoch, shuffle=self.shuffle)
        for batch in range(self.start, len(self)):
            indices = order[batch] if size is None else order[batch * size : (batch + 1) * size]
            yield epoch, indices.tolist()
