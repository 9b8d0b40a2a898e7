"""Which loaders' batches can be found again by their position."""

from __future__ import annotations

from typing import Any

from torch.utils.data import BatchSampler, DataLoader, IterableDataset, RandomSampler, SequentialSampler


def why_not_resumable(loader: Any) -> str | None:
    """Say in one sentence why batches of `loader` cannot be found again by (epoch, batch); None where they can."""
    if hasattr(loader, "seek"):
        return None
    if type(loader) is not DataLoader:
        return f"{type(loader).__name__} is not a plain torch.utils.data.DataLoader: its order is its own"
    if isinstance(loader.dataset, IterableDataset):
        return f"{type(loader.dataset).__name__} is an IterableDataset: its samples have no index to return to"
    if not loader.in_order:
        return "in_order=False lets the order of batches depend on the workers' speed"
    if loader.batch_sampler is not None and type(loader.batch_sampler) is not BatchSampler:
        return f"its batch_sampler {type(loader.batch_sampler).__name__} decides the batches"
    return _why_not_sampler(decides_batches(loader).sampler)


def decides_batches(loader: DataLoader[Any]) -> Any:
    """Whose `batch_size`, `sampler` and `drop_last` count: the loader, or a `BatchSampler` made by hand."""
    return loader if loader.batch_sampler is None else loader.batch_sampler


def _why_not_sampler(sampler: Any) -> str | None:
    if type(sampler) not in (RandomSampler, SequentialSampler):
        return f"its sampler {type(sampler).__name__} decides the order"
    if not hasattr(sampler.data_source, "__len__"):
        return f"{type(sampler.data_source).__name__} has no length"
    if isinstance(sampler, RandomSampler) and (sampler.replacement or len(sampler) != len(sampler.data_source)):
        return "its RandomSampler draws with replacement, or not as many samples as there are"
    return None
