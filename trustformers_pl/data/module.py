"""Any LightningDataModule, with loaders that a resumed run can find its place in, and that features can change."""

from __future__ import annotations

import logging
from collections.abc import Sized
from functools import partial
from typing import TYPE_CHECKING, Any

from lightning.fabric.utilities.data import sized_len
from lightning.pytorch.core.hooks import DataHooks

from trustformers_pl.compose import extend
from trustformers_pl.data.eligible import why_not_resumable
from trustformers_pl.data.loader import resumable
from trustformers_pl.data.phases import DataPhases
from trustformers_pl.data.ranks import data_ranks
from trustformers_pl.data.streamed import StreamedLoader
from trustformers_pl.errors import DataError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from lightning import LightningDataModule, Trainer

logger = logging.getLogger(__name__)


class ResumableData:
    """Mixin over a LightningDataModule: its map-style loaders become `ResumableLoader`s.

    On several data ranks each loader reads its share: the Trainer's `use_distributed_sampler` has no part in it.

    Attributes:
        order_seed: Decides the order of samples and their augmentation.
        data_phases: What features do to the training data; their SHARD holds for validation data too.
    """

    order_seed: int
    data_phases: DataPhases

    if TYPE_CHECKING:  # given by LightningDataModule
        trainer: Trainer | None

    def train_dataloader(self) -> Any:
        """The training loader, resumable if it can be; a loader that cannot be is named in a warning.

        Raises:
            DataError: It gives no batch, or cannot be changed as the run's features want.
        """
        return self._made_resumable(super().train_dataloader(), "training", self.data_phases)  # type: ignore[misc]

    def _made_resumable(self, loader: Any, stage: str, phases: DataPhases) -> Any:
        ranks = partial(_ranks, self)
        made = resumable(loader, seed=self.order_seed, phases=phases, ranks=ranks)
        reason = why_not_resumable(loader)
        if made is loader and phases.training_only:
            cause = reason or f"{type(loader).__name__} seeks by itself"
            raise DataError(f"data: {', '.join(phases.training_only)}: cannot work on the {stage} loader: {cause}")
        _refuse_empty(made, stage, ranks()[1])
        if reason is not None:
            _warn(reason, stage, ranks()[1])
        elif isinstance(made, StreamedLoader) and ranks()[1] > 1:
            kind = type(made.dataset).__name__
            logger.warning(
                "each of %d ranks reads what %s gives it; share the %s data out there", ranks()[1], kind, stage
            )
        return made

    def _shared_out(self, loaders: Any, stage: str) -> Any:
        """Evaluation loaders, one or several: in the order of the data, as they are, and shared out among ranks."""
        phases = self.data_phases.for_validation
        if isinstance(loaders, list | tuple):
            return [self._made_resumable(loader, stage, phases) for loader in loaders]
        return self._made_resumable(loaders, stage, phases)


class ResumableValidation:
    """The same for the validation loaders, of a data module that has some."""

    def val_dataloader(self) -> Any:
        """The validation loaders, likewise; in the order of the data, as they are."""
        return self._shared_out(super().val_dataloader(), "validation")  # type: ignore[attr-defined,misc]


class ResumableTest:
    """The same for the test loaders, of a data module that has some."""

    def test_dataloader(self) -> Any:
        """The test loaders, likewise; in the order of the data, as they are."""
        return self._shared_out(super().test_dataloader(), "test")  # type: ignore[attr-defined,misc]


class ResumablePrediction:
    """The same for the prediction loaders, of a data module that has some."""

    def predict_dataloader(self) -> Any:
        """The prediction loaders, likewise; in the order of the data, as they are."""
        return self._shared_out(super().predict_dataloader(), "prediction")  # type: ignore[attr-defined,misc]


EVALUATIONS: dict[str, type] = {
    "val_dataloader": ResumableValidation,
    "test_dataloader": ResumableTest,
    "predict_dataloader": ResumablePrediction,
}


def resumable_datamodule(
    datamodule: LightningDataModule, *, seed: int, phases: Mapping[str, Sequence[Any]] | None = None
) -> LightningDataModule:
    """Let a data module's loaders be found again by (epoch, batch), and changed in phases; returns the same object.

    Args:
        datamodule: Any; its class is extended by `ResumableData`.
        seed: Of the order of samples, of their augmentation, and of what the phases draw.
        phases: Phase -> functions, as `DataPhase` describes them.
    """
    has = [m for name, m in EVALUATIONS.items() if getattr(type(datamodule), name) is not getattr(DataHooks, name)]
    extended: Any = extend(datamodule, *has, ResumableData)
    extended.order_seed, extended.data_phases = seed, DataPhases.of(phases or {})
    return datamodule


def _ranks(datamodule: Any) -> tuple[int, int]:
    return data_ranks(datamodule.trainer)


def _warn(reason: str, stage: str, ranks: int) -> None:
    if stage == "training":
        logger.warning("a resumed run will not go on at the same sample: %s", reason)
    if ranks > 1:
        logger.warning("each of %d ranks reads all of the %s data: %s", ranks, stage, reason)


def _refuse_empty(loader: Any, stage: str, ranks: int) -> None:
    if sized_len(loader) == 0:
        dataset = getattr(loader, "dataset", None)
        size = len(dataset) if isinstance(dataset, Sized) else 0
        batch_size = getattr(loader, "batch_size", None)
        shared = f" on each of {ranks} ranks" if ranks > 1 else ""
        cause = f"{size} samples with batch_size={batch_size}{shared} and drop_last" if size else "empty"
        raise DataError(f"data: the {stage} dataset gives no batch ({cause}); give more data or a smaller batch")
