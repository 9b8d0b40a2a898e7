"""Predictions written to a file as they come: one JSON object a sample, in the order of the data, on any ranks."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, TextIO

import torch.distributed as dist
from lightning.pytorch import Callback
from typing_extensions import override

from trustformers_pl.data.ranks import data_ranks
from trustformers_pl.errors import RefusedError, TrustformersError
from trustformers_pl.prediction_parts import Key, merge_parts, part_path, write_rows
from trustformers_pl.prediction_rows import rows_of

if TYPE_CHECKING:
    from pathlib import Path

    from lightning.pytorch import LightningModule, Trainer


class PredictionWriter(Callback):
    """Writes what `predict_step` answers to `out`, as JSON Lines.

    Each rank writes the predictions of the samples that it reads to a file of its own, beside `out`; when all are done
    rank 0 merges them. `out` is there whole or not at all, and one that was there before is replaced. Use it with
    `Trainer.predict(return_predictions=False)`, so that nothing is kept in memory.

    Args:
        out: The file. All ranks must see its folder.

    Attributes:
        count: Samples that were written, on rank 0; None before.

    Raises:
        RefusedError: On several data ranks, loaders whose samples have no known place in the order of the data; or
            answers that are no predictions of samples (`trustformers_pl.prediction_rows.rows_of`).
    """

    def __init__(self, out: Path) -> None:
        self.out = out
        self.count: int | None = None
        self._part: TextIO | None = None
        self._ranks = 1

    @override
    def on_predict_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Open this rank's part."""
        rank, self._ranks = data_ranks(trainer)
        if self._ranks > 1:
            self._refuse_unordered(trainer)
        path = part_path(self.out, rank)
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            # Ranks that hold parts of one model predict the same; the first of them writes.
            self._part = path.open("w", encoding="utf-8") if _first_of(rank) else None
        except OSError as error:
            raise TrustformersError(
                f"{self.out}: cannot be written ({error.strerror}); give another file with --out"
            ) from error

    @override
    def on_predict_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Write a batch."""
        rows = rows_of(outputs)
        if self._part is not None:
            write_rows(self._part, (dataloader_idx, batch_idx), rows)

    @override
    def on_predict_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Merge the parts."""
        self._close()
        trainer.strategy.barrier("predictions")
        if trainer.is_global_zero:
            loaders = _loaders(trainer)

            def samples(key: Key) -> int | None:
                return loaders[key[0]].samples_in(key[1]) if self._ranks > 1 else None

            self.count = merge_parts(self.out, self._ranks, samples)
        trainer.strategy.barrier("predictions are merged")

    @override
    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        """Leave no part behind."""
        if self._part is not None:
            self._close()
            part_path(self.out, data_ranks(trainer)[0]).unlink(missing_ok=True)

    def _close(self) -> None:
        if self._part is not None:
            self._part.close()

    def _refuse_unordered(self, trainer: Trainer) -> None:
        for loader in _loaders(trainer):
            if not getattr(loader, "shares_slices", False):
                raise RefusedError(
                    f"data: on {self._ranks} ranks the order of the predictions of a {type(loader).__name__} is not "
                    "known; predict on one rank, or give a map-style DataLoader without a sampler of its own"
                )


def _first_of(data_rank: int) -> bool:
    """Whether this process is the first of those that read the same data."""
    if not (dist.is_available() and dist.is_initialized()):
        return True
    everyone: list[int] = [0] * dist.get_world_size()
    dist.all_gather_object(everyone, data_rank)
    return everyone.index(data_rank) == dist.get_rank()


def _loaders(trainer: Trainer) -> list[Any]:
    loaders = trainer.predict_dataloaders
    return list(loaders) if isinstance(loaders, list | tuple) else [loaders]
