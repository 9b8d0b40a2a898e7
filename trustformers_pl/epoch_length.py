"""The number of batches of this very epoch: Lightning asks a loader once, but features may make it vary."""

from __future__ import annotations

from typing import TYPE_CHECKING

from lightning.fabric.utilities.data import sized_len
from lightning.pytorch.trainer.connectors.data_connector import _parse_num_batches
from lightning.pytorch.trainer.states import RunningStage

if TYPE_CHECKING:
    from lightning import Trainer
    from lightning.pytorch.loops.fetchers import _DataFetcher
    from lightning.pytorch.utilities.combined_loader import CombinedLoader


def measure(trainer: Trainer, fetcher: _DataFetcher) -> None:
    """Tell the loop how many batches this epoch has, if a loader says by `count_varies` that it may be another number.

    Without this an epoch that is longer than the first is cut, and a shorter one skips the validation at its end.

    Args:
        trainer: Whose training loaders know the epoch already.
        fetcher: Of the epoch that starts, or goes on.
    """
    fit_loop = trainer.fit_loop
    combined = fit_loop._combined_loader
    if combined is None or not any(getattr(loader, "count_varies", False) for loader in combined.flattened):
        return
    _set_limits(combined, trainer.limit_train_batches)
    length = sized_len(combined)
    fetcher.length = length
    if length is None:
        return
    fetcher.done = fetcher.fetched >= length
    fit_loop.max_batches = length
    if isinstance(trainer.val_check_interval, float):
        trainer.val_check_batch = max(1, int(length * trainer.val_check_interval))


def _set_limits(combined: CombinedLoader, limit: int | float) -> None:
    lengths = [sized_len(loader) for loader in combined.flattened]
    limits = [
        float("inf") if length is None else _parse_num_batches(RunningStage.TRAINING, length, limit)
        for length in lengths
    ]
    combined.limits = limits
    if combined._iterator is not None:
        combined._iterator.limits = limits
