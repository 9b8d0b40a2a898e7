"""Whether a rank's share of a batch is only there so that the rank has something to do."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from trustformers_pl.data.ranks import data_ranks

if TYPE_CHECKING:
    from lightning import Trainer


def only_repeats(trainer: Trainer | None, batch_idx: int, dataloader_idx: int = 0) -> bool:
    """Whether this process's share of an evaluation batch holds a sample that another rank counts.

    A batch of all ranks with fewer samples than ranks, which only the last one of a dataset can be, is repeated from
    its start (`contiguous_share`): whoever means or counts over the dataset leaves those shares out.

    Args:
        trainer: That validates or tests; a module may be asked without one.
        batch_idx: Of the batch.
        dataloader_idx: Of its loader.

    Returns:
        False also where it is not known: loaders that are no `ResumableLoader`, or whose samples a feature shares out.
    """
    rank, ranks = data_ranks(trainer)
    if trainer is None or ranks == 1:
        return False
    loader = _loader(trainer, dataloader_idx)
    return bool(getattr(loader, "shares_slices", False)) and loader.samples_in(batch_idx) <= rank


def _loader(trainer: Trainer, dataloader_idx: int) -> Any:
    loaders = trainer.test_dataloaders if trainer.testing else trainer.val_dataloaders
    return loaders[dataloader_idx] if isinstance(loaders, list | tuple) else loaders
