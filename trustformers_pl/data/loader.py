"""A loader that starts at any batch of any epoch, and gives the same batches however many workers load them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch.utils.data import BatchSampler, DataLoader, IterableDataset, RandomSampler, SequentialSampler

from trustformers_pl.data.order import SeekableOrder, counter_seed
from trustformers_pl.data.seeded import SeededBatches

if TYPE_CHECKING:
    from collections.abc import Iterator

# What a DataLoader keeps under its argument's name, and that says how samples are loaded rather than which.
_TAKEN_OVER = (
    "num_workers",
    "pin_memory",
    "pin_memory_device",
    "timeout",
    "worker_init_fn",
    "multiprocessing_context",
    "prefetch_factor",
    "persistent_workers",
)


class ResumableLoader:
    """A map-style `DataLoader` made over so that its batches are a pure function of (seed, epoch, batch).

    Not a `DataLoader`, so that Lightning neither replaces its sampler nor rebuilds it. Every iteration starts at batch
    0 of epoch 0 unless `seek` was called before it. Nothing depends on the number of workers, nor on the global
    generators, which iterating leaves as they were (see `SeededBatches`, also for what is seeded when).

    Args:
        loader: Whose dataset, batch size, `collate_fn`, shuffling, `drop_last` and worker settings are taken over; it
            is not iterated. Its own `generator` is not used: the order follows from `seed`.
        seed: The run's seed.

    Raises:
        ValueError: If `why_not_resumable(loader)` has a reason.
    """

    def __init__(self, loader: DataLoader[Any], *, seed: int) -> None:
        reason = why_not_resumable(loader)
        if reason is not None:
            raise ValueError(reason)
        # A hand-made BatchSampler leaves the loader's own batch_size, sampler and drop_last at their defaults.
        batches: Any = _decides_batches(loader)
        self.dataset = loader.dataset
        self.batch_size: int | None = batches.batch_size
        self._seed = seed
        self.batch_sampler = None
        self._epoch = 0
        self._position: tuple[int, int] | None = None
        self._generator = torch.Generator()
        self._order = SeekableOrder(
            len(batches.sampler),
            self.batch_size,
            seed=seed,
            shuffle=isinstance(batches.sampler, RandomSampler),
            drop_last=batches.drop_last,
        )
        self._loader = self._rebuilt(loader)

    def _rebuilt(self, loader: DataLoader[Any]) -> DataLoader[Any]:
        return DataLoader(
            SeededBatches(loader.dataset, loader.collate_fn, seed=self._seed),
            batch_size=None,
            sampler=self._order,
            collate_fn=_as_fetched,
            generator=self._generator,
            **{name: getattr(loader, name) for name in _TAKEN_OVER},
        )

    def __len__(self) -> int:
        """Number of batches in a whole epoch, wherever the next iteration starts."""
        return len(self._order)

    def seek(self, epoch: int, batch: int) -> None:
        """Let the next iteration give batches `batch`, `batch + 1`, ... of epoch `epoch`, both counted from 0.

        Costs one permutation of the indices, at the first `next`, and reads no sample before `batch`.

        Raises:
            ValueError: If there is no such position; `batch == len(self)` is one, with nothing after it.
        """
        if epoch < 0 or not 0 <= batch <= len(self):
            raise ValueError(f"no batch {batch} of epoch {epoch}: batches go from 0 to {len(self)}, epochs from 0")
        self._position = (epoch, batch)

    @property
    def sampler(self) -> ResumableLoader:
        """Itself: Lightning tells a loader's sampler the epoch, through `set_epoch`."""
        return self

    def set_epoch(self, epoch: int) -> None:
        """Let iterations be of this epoch from now on, unless `seek` says otherwise for the next one."""
        self._epoch = epoch

    def __iter__(self) -> Iterator[Any]:
        """Iterate once; the position is read, and workers are started, at the first `next`."""
        self._order.epoch, self._order.start = self._position or (self._epoch, 0)
        self._position = None
        self._generator.manual_seed(counter_seed(self._seed, "workers", self._order.epoch))
        yield from self._loader


def resumable(loader: Any, *, seed: int) -> Any:
    """Make `loader` a `ResumableLoader`; return it as it is if it is one, or if `why_not_resumable` has a reason."""
    if isinstance(loader, ResumableLoader) or why_not_resumable(loader) is not None:
        return loader
    return ResumableLoader(loader, seed=seed)


def why_not_resumable(loader: Any) -> str | None:
    """Say in one sentence why batches of `loader` cannot be found again by (epoch, batch); None where they can."""
    if isinstance(loader, ResumableLoader):
        return None
    if type(loader) is not DataLoader:
        return f"{type(loader).__name__} is not a plain torch.utils.data.DataLoader: its order is its own"
    if isinstance(loader.dataset, IterableDataset):
        return f"{type(loader.dataset).__name__} is an IterableDataset: its samples have no index to return to"
    if not loader.in_order:
        return "in_order=False lets the order of batches depend on the workers' speed"
    if loader.batch_sampler is not None and type(loader.batch_sampler) is not BatchSampler:
        return f"its batch_sampler {type(loader.batch_sampler).__name__} decides the batches"
    return _why_not_sampler(_decides_batches(loader).sampler)


def _decides_batches(loader: DataLoader[Any]) -> Any:
    return loader if loader.batch_sampler is None else loader.batch_sampler


def _why_not_sampler(sampler: Any) -> str | None:
    if type(sampler) not in (RandomSampler, SequentialSampler):
        return f"its sampler {type(sampler).__name__} decides the order"
    if not hasattr(sampler.data_source, "__len__"):
        return f"{type(sampler.data_source).__name__} has no length"
    if isinstance(sampler, RandomSampler) and (sampler.replacement or len(sampler) != len(sampler.data_source)):
        return "its RandomSampler draws with replacement, or not as many samples as there are"
    return None


def _as_fetched(batch: Any) -> Any:
    return batch
