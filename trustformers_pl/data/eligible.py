"""Which loaders' batches can be found again by their position."""

from __future__ import annotations

from typing import Any

from torch.utils.data import (
    BatchSampler,
    DataLoader,
    DistributedSampler,
    IterableDataset,
    RandomSampler,
    SequentialSampler,
    SubsetRandomSampler,
    WeightedRandomSampler,
)

# Torch's own samplers: what they draw follows from a generator, their own or the global one.
RECALLED = (RandomSampler, SequentialSampler, SubsetRandomSampler, WeightedRandomSampler)


def why_not_resumable(loader: Any) -> str | None:
    """Say in one sentence why batches of `loader` cannot be found again by (epoch, batch); None where they can."""
    if hasattr(loader, "seek"):
        return None
    if type(loader) is not DataLoader:
        return f"{type(loader).__name__} is not a plain torch.utils.data.DataLoader: its order is its own"
    if not loader.in_order:
        return "in_order=False lets the order of batches depend on the workers' speed"
    if isinstance(loader.dataset, IterableDataset):
        return None
    if loader.batch_sampler is not None and type(loader.batch_sampler) is not BatchSampler:
        return f"its batch_sampler {type(loader.batch_sampler).__name__} decides the batches"
    return _why_not_sampler(decides_batches(loader).sampler)


def decides_batches(loader: DataLoader[Any]) -> Any:
    """Whose `batch_size`, `sampler` and `drop_last` count: the loader, or a `BatchSampler` made by hand."""
    return loader if loader.batch_sampler is None else loader.batch_sampler


def is_usual(sampler: Any) -> bool:
    """Whether a sampler visits each sample once an epoch, in order or shuffled: then it need not be asked."""
    if type(sampler) is SequentialSampler:
        return True
    shuffles = type(sampler) is RandomSampler and not sampler.replacement
    return shuffles and len(sampler) == len(sampler.data_source)


def _why_not_sampler(sampler: Any) -> str | None:
    name = type(sampler).__name__
    if isinstance(sampler, DistributedSampler):
        return f"its {name} gives a rank's share only; leave sharing out to the engine"
    if type(sampler) not in RECALLED and not hasattr(sampler, "set_epoch"):
        return f"its sampler {name} decides the order; give it a method set_epoch(epoch) that the order follows from"
    if isinstance(sampler, RandomSampler | SequentialSampler) and not hasattr(sampler.data_source, "__len__"):
        return f"{type(sampler.data_source).__name__} has no length"
    return None
