"""Any LightningDataModule, with loaders that a resumed run can find its place in."""

from __future__ import annotations

import logging
from collections.abc import Sized
from typing import TYPE_CHECKING, Any

from trustformers_pl.compose import extend
from trustformers_pl.data.loader import resumable, why_not_resumable
from trustformers_pl.errors import DataError

if TYPE_CHECKING:
    from lightning import LightningDataModule

logger = logging.getLogger(__name__)


class ResumableData:
    """Mixin over a LightningDataModule: its map-style loaders become `ResumableLoader`s.

    Attributes:
        order_seed: Decides the order of samples and their augmentation.
    """

    order_seed: int

    def train_dataloader(self) -> Any:
        """The training loader, resumable if it can be; a loader that cannot be is named in a warning."""
        return self._made_resumable(super().train_dataloader(), "training")  # type: ignore[misc]

    def val_dataloader(self) -> Any:
        """The validation loaders, likewise."""
        loaders = super().val_dataloader()  # type: ignore[misc]
        if isinstance(loaders, list | tuple):
            return [self._made_resumable(loader, "validation") for loader in loaders]
        return self._made_resumable(loaders, "validation")

    def _made_resumable(self, loader: Any, stage: str) -> Any:
        _refuse_empty(loader, stage)
        reason = why_not_resumable(loader)
        made = resumable(loader, seed=self.order_seed)
        if made is loader and stage == "training" and not hasattr(loader, "seek"):
            logger.warning("a resumed run will not go on at the same sample: %s", reason)
        return made


def resumable_datamodule(datamodule: LightningDataModule, *, seed: int) -> LightningDataModule:
    """Let a data module's loaders be found again by (epoch, batch); returns the same object."""
    extend(datamodule, ResumableData)
    datamodule.order_seed = seed  # type: ignore[attr-defined]
    return datamodule


def _refuse_empty(loader: Any, stage: str) -> None:
    if not hasattr(loader, "__len__"):
        return
    if len(loader) == 0:
        dataset = getattr(loader, "dataset", None)
        size = len(dataset) if isinstance(dataset, Sized) else 0
        batch_size = getattr(loader, "batch_size", None)
        cause = f"{size} samples with batch_size={batch_size} and drop_last" if size else "empty"
        raise DataError(f"data: the {stage} dataset gives no batch ({cause}); give more data or a smaller batch")
