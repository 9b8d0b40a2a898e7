"""Batches in which samples that cannot be read are replaced by others, by whichever process fetches them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from torch.utils.data._utils.pin_memory import pin_memory
from typing_extensions import override

from trustformers_pl.data.failures import BadSample, Told, cause_of
from trustformers_pl.data.seeded import SeededBatches
from trustformers_pl.errors import DataError

if TYPE_CHECKING:
    from trustformers_pl.data.failures import Note


@dataclass(frozen=True)
class Replaced(Told):
    """A batch with other samples in place of bad ones.

    Attributes:
        batch: As collated.
        bad: What could not be read.
    """

    batch: Any
    bad: tuple[BadSample, ...]

    @override
    def delivered(self, note: Note | None) -> Any:
        """The batch, when it is noted what is missing in it."""
        assert note is not None
        for sample in self.bad:
            note(sample)
        return self.batch

    def pin_memory(self) -> Replaced:
        """The same with the batch in pinned memory, as DataLoader asks for it."""
        return Replaced(pin_memory(self.batch), self.bad)  # type: ignore[no-untyped-call]


class MendedBatches(SeededBatches):
    """`SeededBatches` whose keys are (epoch, indices, spares), and whose samples that raise are replaced.

    In place of a bad sample comes the next one of the epoch that can be read: of the same global batch or, behind its
    last sample, of the next batch. So what replaces a sample follows from the epoch's batches alone, is the same on any
    number of ranks and workers and after a resume, and is of what features have ordered and put together. The fast path
    of datasets with `__getitems__` is left for a batch in which it raised; there samples are fetched one by one.

    Where no spare can be read either, the batch fails as it would without replacements.
    """

    @override
    def __getitem__(self, key: tuple[int, list[int] | int, list[int]]) -> Any:  # type: ignore[override]
        epoch, indices, self._spares = key
        self._bad: dict[int, BadSample] = {}
        batch = self._delivery(epoch, indices)
        return batch if isinstance(batch, Told) or not self._bad else Replaced(batch, tuple(self._bad.values()))

    @override
    def _samples(self, epoch: int, indices: list[int] | int) -> Any:
        try:
            return super()._samples(epoch, indices)
        except Exception:  # whatever a dataset raises
            samples = self._one_by_one(epoch, indices)
        self._at = indices
        return samples

    def _one_by_one(self, epoch: int, indices: list[int] | int) -> Any:
        if isinstance(indices, int):
            return self._mended(epoch, indices)
        return [self._mended(epoch, index) for index in indices]

    def _mended(self, epoch: int, index: int) -> Any:
        place = self._spares.index(index)
        for candidate in dict.fromkeys((*self._spares[place:], *self._spares[:place])):
            if candidate in self._bad:
                continue
            try:
                return self._alone(epoch, candidate)
            except Exception as error:
                self._bad[candidate] = BadSample(candidate, epoch, cause_of(error))
        bad = self._bad[index]
        raise DataError(f"{bad.cause}, and none of the {len(self._bad)} samples tried in its place can be read")

    def _alone(self, epoch: int, index: int) -> Any:
        fetch_batch = getattr(self.dataset, "__getitems__", None)
        if fetch_batch is None:
            return self._sample(epoch, index)
        if self.draws:
            self._reseed(epoch, "sample", index)
        return fetch_batch([index])[0]
