"""What features do to data, in its fixed order: source, order, batch, mix, shard."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from trustformers_pl.data.ranks import contiguous_share
from trustformers_pl.data.seeded import seeded
from trustformers_pl.errors import DataError, RefusedError
from trustformers_pl.phases import EXCLUSIVE, DataPhase

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence


@dataclass(frozen=True)
class DataPhases:
    """The functions of each phase; their arguments are in `DataPhase`.

    All are pure functions of their arguments. What one draws from the global generators follows from (seed, its
    place, epoch), for MIX also from (step, rank), and disturbs nobody.
    """

    source: tuple[Callable[[Any], Any], ...] = ()
    order: tuple[Callable[[Tensor, int, int], Tensor], ...] = ()
    batch: Callable[[Tensor, int, int, int], Sequence[Tensor]] | None = None
    mix: tuple[Callable[[Any, int, int, int], Any], ...] = ()
    shard: Callable[[Tensor, int, int], Tensor] = contiguous_share

    @classmethod
    def of(cls, functions: Mapping[str, Sequence[Any]]) -> DataPhases:
        """From functions by phase.

        Raises:
            ValueError: An unknown phase.
            RefusedError: Several functions in a phase that has one owner.
        """
        by_phase: dict[str, Any] = {DataPhase(phase).value: tuple(given) for phase, given in functions.items() if given}
        for phase in EXCLUSIVE:
            owners = by_phase.get(phase.value, ())
            if len(owners) > 1:
                names = " and ".join(_name(owner) for owner in owners)
                raise RefusedError(f"data phase {phase.value}: {names} both want it, and it has one owner; give one")
            if owners:
                by_phase[phase.value] = owners[0]
        return cls(**by_phase)

    @property
    def training_only(self) -> list[str]:
        """Names of the functions that change what is trained on."""
        functions = (*self.source, *self.order, *((self.batch,) if self.batch else ()), *self.mix)
        return [_name(function) for function in functions]

    @property
    def for_validation(self) -> DataPhases:
        """What holds for validation data too: they are read in order and as they are, and shared out."""
        return DataPhases(shard=self.shard)

    def refuse_unbatched(self, batch_size: int | None) -> None:
        """Refuse a loader that gives single samples, if a feature makes the batches.

        Raises:
            DataError: It does.
        """
        if self.batch is not None and batch_size is None:
            raise DataError(f"data: {_name(self.batch)} makes batches, and the DataLoader none; give it a batch_size")

    def refuse_source(self, sampler: str) -> None:
        """Refuse features that change the dataset under a sampler that has indices of it.

        Args:
            sampler: Its name.

        Raises:
            DataError: There are some.
        """
        if self.source:
            names = ", ".join(map(_name, self.source))
            cause = f"the sampler {sampler} has indices of it as it was"
            raise DataError(f"data: {names}: cannot change the dataset: {cause}; give shuffle=True instead")

    def refuse_on_a_stream(self, stream: str) -> None:
        """Refuse features that need indices.

        Args:
            stream: The dataset's name.

        Raises:
            DataError: There are some.
        """
        if functions := (*self.source, *self.order, *((self.batch,) if self.batch else ())):
            names = ", ".join(map(_name, functions))
            cause = f"{stream} is an IterableDataset, and its samples have no index"
            raise DataError(f"data: {names}: cannot work on the training loader: {cause}; give a map-style dataset")

    def sourced(self, dataset: Any, seed: int) -> Any:
        """The dataset after SOURCE.

        Raises:
            DataError: A function gives something that has no length or no index.
        """
        for number, function in enumerate(self.source):
            with seeded(seed, "source", number):
                dataset = function(dataset)
            if not (hasattr(dataset, "__len__") and hasattr(dataset, "__getitem__")):
                kind = type(dataset).__name__
                raise DataError(
                    f"data: {_name(function)} gave a {kind}, without length or index; give a map-style dataset"
                )
        return dataset

    def prepare(self, dataset: Any, batch: Callable[[], int]) -> None:
        """Tell the functions of ORDER that ask for it, by a method `prepare(dataset, batch)`, what they order.

        Args:
            dataset: After SOURCE.
            batch: Gives the number of samples in a global batch, when the ranks are known.
        """
        for function in self.order:
            if hasattr(function, "prepare"):
                function.prepare(dataset, batch)

    def ordered(self, indices: Tensor, epoch: int, seed: int, length: int) -> Tensor:
        """The epoch's indices, of a dataset of this length, after ORDER: (N,) int64 to (M,) int64.

        Raises:
            DataError: A function gives something else than indices of the dataset.
        """
        for number, function in enumerate(self.order):
            with seeded(seed, "order", number, epoch):
                indices = _checked(function(indices, epoch, seed), length, function)
        return indices

    def batched(self, indices: Tensor, batch_size: int, epoch: int, seed: int, length: int) -> list[Tensor]:
        """The epoch's global batches, as the owner of BATCH makes them.

        Raises:
            DataError: A batch is empty, or not of indices of the dataset.
        """
        assert self.batch is not None
        with seeded(seed, "batch", epoch):
            batches = list(self.batch(indices, batch_size, epoch, seed))
        for batch in batches:
            if not len(_checked(batch, length, self.batch)):
                raise DataError(f"data: {_name(self.batch)} made an empty batch; leave it out")
        return batches

    @property
    def is_whole_on_one_rank(self) -> bool:
        """Whether a single rank's part of a batch is the batch: no feature shares samples out."""
        return self.shard is contiguous_share

    def share(self, indices: Tensor, rank: int, ranks: int) -> Tensor:
        """A rank's part of a global batch.

        Raises:
            DataError: The owner of SHARD leaves a rank without samples.
        """
        share = self.shard(indices, rank, ranks)
        if not len(share):
            raise DataError(f"data: {_name(self.shard)} leaves rank {rank} of {ranks} without samples of a batch")
        return share

    def mixed(self, batch: Any, epoch: int, step: int, seed: int, rank: int) -> Any:
        """A collated batch after MIX."""
        for number, function in enumerate(self.mix):
            with seeded(seed, "mix", number, epoch, step, rank):
                batch = function(batch, epoch, step, seed)
        return batch


def _checked(given: Any, length: int, function: Any) -> Tensor:
    if isinstance(given, Tensor) and given.ndim == 1 and given.dtype == torch.int64:
        indices: Tensor = given
        if not len(indices) or 0 <= int(indices.min()) <= int(indices.max()) < length:
            return indices
    raise DataError(f"data: {_name(function)} must give 1-D int64 tensors of indices from 0 to {length - 1}")


def _name(function: Any) -> str:
    name: str = getattr(function, "__name__", type(function).__name__)
    return name
