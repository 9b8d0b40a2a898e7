"""Batches whose random augmentation follows from (seed, epoch, index) alone, whoever computes them."""

from __future__ import annotations

import random
from contextlib import contextmanager, nullcontext
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch.utils.data import (
    ConcatDataset,
    Dataset,
    Subset,
    TensorDataset,
    default_collate,
    default_convert,
    get_worker_info,
)

from trustformers_pl.data.failures import Failure, batch_of
from trustformers_pl.data.order import counter_seed

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator


def reseed(seed: int) -> None:
    """Seed the three generators that datasets draw from: torch's CPU generator, NumPy's and Python's global ones.

    Args:
        seed: 64 bits; NumPy gets the lower 32, because an array seed costs it five times as much.
    """
    # torch.manual_seed would also seed every accelerator: 98 us instead of 1.
    torch.default_generator.manual_seed(seed)
    np.random.seed(seed & 0xFFFF_FFFF)
    random.seed(seed)


@contextmanager
def preserved_generators() -> Iterator[None]:
    """Put the states of the three global generators back on leaving, so that fetching data never disturbs training."""
    states = torch.default_generator.get_state(), np.random.get_state(), random.getstate()
    try:
        yield
    finally:
        torch.default_generator.set_state(states[0])
        np.random.set_state(states[1])
        random.setstate(states[2])


@contextmanager
def seeded(*coordinates: int | str) -> Iterator[None]:
    """Inside, the three global generators follow from coordinates alone; they are put back on leaving."""
    with preserved_generators():
        reseed(counter_seed(*coordinates))
        yield


def draws_nothing(source: Any) -> bool:
    """Whether a dataset or a `collate_fn` is known to draw no random numbers.

    Torch's `TensorDataset`, lists, tuples, subsets and concatenations of those, and torch's own collation are; anything
    else may say so with an attribute `deterministic = True`.
    """
    if isinstance(source, Subset):
        return draws_nothing(source.dataset)
    if isinstance(source, ConcatDataset):
        return all(map(draws_nothing, source.datasets))
    known = type(source) in (TensorDataset, list, tuple) or any(
        source is own for own in (default_collate, default_convert)
    )
    return bool(getattr(source, "deterministic", known))


class SeededBatches(Dataset[Any]):
    """A map-style dataset seen as a dataset of collated batches, keyed by (epoch, indices).

    Every `dataset[i]` runs with the generators seeded from (seed, epoch, i), and `collate_fn` from (seed, epoch, first
    index). A dataset with `__getitems__` fetches a batch in one call, so it is seeded once, from the first index. In
    the main process the generators are put back afterwards, once a batch (copying NumPy's state takes 65 us).

    Where `draws_nothing` holds of the dataset, and of the `collate_fn` too, nothing is seeded and nothing costs extra.
    """

    def __init__(self, dataset: Any, collate_fn: Callable[[Any], Any], *, seed: int) -> None:
        self.dataset = dataset
        self.collate_fn = collate_fn
        self.seed = seed
        self._at: list[int] | int = []  # what is being fetched, for the message of a failure
        self.draws = not (draws_nothing(dataset) and draws_nothing(collate_fn))

    def __getitem__(self, key: tuple[int, list[int] | int]) -> Any:
        """Fetch and collate the samples at `indices` of `(epoch, indices)`; an int is one sample, not a batch.

        Returns:
            The batch; a `Failure` where the dataset or the `collate_fn` raised.
        """
        epoch, indices = key
        return self._delivery(epoch, indices)

    def _delivery(self, epoch: int, indices: list[int] | int) -> Any:
        self._at = indices
        try:
            return self._collated(epoch, indices)
        except Exception as error:
            return Failure.of(error, epoch, batch_of(self._at))

    def _collated(self, epoch: int, indices: list[int] | int) -> Any:
        if not self.draws:
            return self.collate_fn(self._samples(epoch, indices))
        in_main_process = get_worker_info() is None
        with preserved_generators() if in_main_process else nullcontext():
            samples = self._samples(epoch, indices)
            self._reseed(epoch, "collate", indices if isinstance(indices, int) else indices[0])
            return self.collate_fn(samples)

    def _samples(self, epoch: int, indices: list[int] | int) -> Any:
        return self._fetch(epoch, indices) if self.draws else self._fetch_unseeded(indices)

    def _fetch_unseeded(self, indices: list[int] | int) -> Any:
        dataset = self.dataset
        if isinstance(indices, int):
            return dataset[indices]
        fetch_batch = getattr(dataset, "__getitems__", None)
        if fetch_batch is not None:
            return fetch_batch(indices)
        samples: list[Any] = []
        try:
            for index in indices:
                samples.append(dataset[index])  # noqa: PERF401 - their number tells which one raised
        except Exception:
            self._at = indices[len(samples)]
            raise
        return samples

    def _fetch(self, epoch: int, indices: list[int] | int) -> Any:
        if isinstance(indices, int):
            return self._sample(epoch, indices)
        fetch_batch = getattr(self.dataset, "__getitems__", None)
        if fetch_batch is None:
            samples = [self._sample(epoch, index) for index in indices]
            self._at = indices
            return samples
        self._reseed(epoch, "batch", indices[0])
        return fetch_batch(indices)

    def _sample(self, epoch: int, index: int) -> Any:
        self._at = index
        if self.draws:
            self._reseed(epoch, "sample", index)
        return self.dataset[index]

    def _reseed(self, *coordinates: int | str) -> None:
        reseed(counter_seed(self.seed, *coordinates))
