"""The batches of an epoch as keys, from any of them on: planned over all ranks, and this rank's share of them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Protocol

from torch.utils.data import Sampler

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from torch import Tensor

    from trustformers_pl.data.phases import DataPhases

    class Order(Protocol):
        """Gives the indices that an epoch visits."""

        def __call__(self, *, seed: int, epoch: int) -> Tensor: ...  # noqa: D102


AT_A_TIME = 64  # slices


class Slices:
    """Consecutive slices of an order, made when asked for: the default of the BATCH phase.

    Args:
        order: (N,) int64.
        size: Indices in a slice.
        drop_last: Whether an incomplete last one is left out.
    """

    def __init__(self, order: Tensor, size: int, *, drop_last: bool) -> None:
        self.order = order
        self.size = size
        self.drop_last = drop_last

    def __len__(self) -> int:
        return slice_count(len(self.order), self.size, drop_last=self.drop_last)

    def __getitem__(self, batch: int) -> Tensor:
        return self.order[batch * self.size : (batch + 1) * self.size]

    def lists(self, start: int) -> Iterator[list[int]]:
        """The slices from `start` on as lists, made some at a time: one by one costs as much as a small layer."""
        for first in range(start, len(self), AT_A_TIME):
            some = self.order[first * self.size : (first + AT_A_TIME) * self.size].tolist()
            for batch in range(min(AT_A_TIME, len(self) - first)):
                yield some[batch * self.size : (batch + 1) * self.size]


def slice_count(length: int, size: int, *, drop_last: bool) -> int:
    """How many slices of `size` there are in `length`."""
    return length // size if drop_last else -(-length // size)


class SeekableBatches(Sampler[tuple[Any, ...]]):
    """This rank's batches of one epoch as keys (epoch, indices), from a settable one on.

    Global batches follow from (seed, epoch, number of ranks x batch size) alone, so the same samples make a batch on
    any number of ranks. Where a feature owns ORDER or BATCH, the number of batches is known only by making them.

    Args:
        length: Number of samples of the dataset.
        batch_size: Samples in a rank's batch; None makes each index, not in a list, a batch.
        order: `(seed=, epoch=) -> (M,)`: the indices that an epoch visits, before the phase ORDER.
        visited: M, where it is the same for all epochs; None where only `order` knows.
        seed: The run's seed.
        drop_last: Whether an incomplete last global batch is left out; the owner of BATCH decides itself.
        phases: What features change.
        ranks: Gives (rank, ranks); asked when it matters.

    Attributes:
        epoch: The epoch to iterate next.
        start: Its first batch.
        spares: Where it is not 0, keys are (epoch, indices, spares), see `_spares`.
    """

    def __init__(
        self,
        length: int,
        batch_size: int | None,
        order: Order,
        *,
        visited: int | None,
        seed: int,
        drop_last: bool,
        phases: DataPhases,
        ranks: Callable[[], tuple[int, int]],
    ) -> None:
        self.length, self.batch_size, self.visited = length, batch_size, visited
        self.order, self.seed, self.drop_last = order, seed, drop_last
        self.phases, self.ranks = phases, ranks
        self.epoch = self.start = self.spares = 0
        self._made: tuple[tuple[int, int], Slices | list[Tensor]] | None = None

    @property
    def count_varies(self) -> bool:
        """Whether epochs may differ in their number of batches."""
        return bool(self.visited is None or self.phases.order or self.phases.batch)

    def count(self, epoch: int) -> int:
        """Number of batches in an epoch, the same on every rank."""
        if self.visited is None or self.count_varies:
            return len(self.global_batches(epoch))
        return slice_count(self.visited, self.global_size(), drop_last=self.drop_last)

    def samples_in(self, epoch: int, batch: int) -> int:
        """Samples in a global batch of an epoch."""
        return len(self.global_batches(epoch)[batch])

    def __len__(self) -> int:
        return self.count(self.epoch)

    def __iter__(self) -> Iterator[tuple[Any, ...]]:
        epoch, (rank, ranks) = self.epoch, self.ranks()
        batches = self.global_batches(epoch)
        keys = self._keys(epoch, batches, rank, ranks)
        if not self.spares:
            return keys
        numbers = range(self.start, len(batches))
        return ((*key, self._spares(batches, number)) for number, key in zip(numbers, keys, strict=True))

    def _keys(
        self, epoch: int, batches: Slices | list[Tensor], rank: int, ranks: int
    ) -> Iterator[tuple[int, list[int] | int]]:
        if ranks == 1 and self.phases.is_whole_on_one_rank and isinstance(batches, Slices):
            shares = batches.lists(self.start)
        else:
            numbers = range(self.start, len(batches))
            shares = (self.phases.share(batches[number], rank, ranks).tolist() for number in numbers)
        for share in shares:
            yield epoch, share if self.batch_size is not None else share[0]

    def _spares(self, batches: Slices | list[Tensor], number: int) -> list[int]:
        """A global batch, and so many of the epoch's next ones, cyclically, that they have `spares` samples more."""
        found: list[int] = batches[number].tolist()
        wanted = len(found) + self.spares
        for following in range(1, len(batches)):
            if len(found) >= wanted:
                break
            found += batches[(number + following) % len(batches)].tolist()
        return found

    def global_size(self) -> int:
        """Samples in a whole global batch."""
        return (self.batch_size or 1) * self.ranks()[1]

    def global_batches(self, epoch: int) -> Slices | list[Tensor]:
        """The batches of an epoch as indices, of all ranks together."""
        size = self.global_size()
        if self._made is None or self._made[0] != (epoch, size):
            self._made = (epoch, size), self._make(epoch, size)
        return self._made[1]

    def _make(self, epoch: int, size: int) -> Slices | list[Tensor]:
        order = self.phases.ordered(self.order(seed=self.seed, epoch=epoch), epoch, self.seed, self.length)
        if self.phases.batch is None:
            return Slices(order, size, drop_last=self.drop_last)
        return self.phases.batched(order, size, epoch, self.seed, self.length)
