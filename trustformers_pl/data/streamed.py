"""Batches of an iterable-style dataset that can be found again: by reading the stream again, with the same draws."""

from __future__ import annotations

from itertools import count, islice
from typing import TYPE_CHECKING, Any

import torch
from torch.utils.data import DataLoader, IterableDataset, get_worker_info

from trustformers_pl.data.deaths import whole_batches
from trustformers_pl.data.eligible import why_not_resumable
from trustformers_pl.data.failures import Failure
from trustformers_pl.data.order import counter_seed
from trustformers_pl.data.phases import DataPhases
from trustformers_pl.data.position import Positioned
from trustformers_pl.data.ranks import process_ranks
from trustformers_pl.data.seeded import preserved_generators, reseed
from trustformers_pl.data.taken_over import as_fetched, worker_settings

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    Ranks = Callable[[], tuple[int, int]]


class StreamedLoader(Positioned):
    """An iterable-style `DataLoader` made over so that it gives the same batches again, from any of them on.

    Every sample is drawn with the global generators seeded from (seed, epoch, rank, worker, its number in the worker's
    stream), the start of the stream with those of its worker; what has to be the same for all workers and ranks, such
    as the order of files that they share out, should come from a generator of the dataset's own. Iterating leaves the
    global generators as they were. A dataset with `set_epoch(epoch)` is told the epoch, also in workers that persist.

    A stream has no index: `seek` reads it again from its start, without collating what it passes over. Which sample is
    in which batch depends on the number of workers, as ever with iterable-style data; resume with the same. Several
    ranks each read what the dataset gives them: sharing it out is the dataset's own matter.

    Args:
        loader: Whose dataset, batch size, `collate_fn`, `drop_last` and worker settings are taken over; not iterated.
        seed: The run's seed.
        phases: Of which MIX works on streams.
        ranks: Gives (rank, ranks) of this process among those that read different data; asked when it matters.

    Raises:
        ValueError: The dataset is no `IterableDataset`, or `why_not_resumable(loader)` has a reason.
        DataError: Features want to change the dataset, its order or the batches.
    """

    def __init__(
        self, loader: DataLoader[Any], *, seed: int, phases: DataPhases | None = None, ranks: Ranks = process_ranks
    ) -> None:
        reason = why_not_resumable(loader)
        if reason is not None or not isinstance(loader.dataset, IterableDataset):
            raise ValueError(reason or "its dataset has an index; take ResumableLoader")
        self._phases = phases or DataPhases()
        self._phases.refuse_on_a_stream(type(loader.dataset).__name__)
        self.dataset = loader.dataset
        self.batch_size = loader.batch_size
        self._drop_last = loader.drop_last
        self._seed, self._ranks = seed, ranks
        self._generator = torch.Generator()
        self._stream = SeededStream(loader, seed)
        self._loader = DataLoader(
            self._stream,
            batch_size=None,
            collate_fn=as_fetched,
            generator=self._generator,
            **worker_settings(loader),
        )

    @property
    def mixes(self) -> tuple[Callable[[Any, int, int, int], Any], ...]:
        """The functions of the phase MIX."""
        return self._phases.mix

    def __len__(self) -> int:
        """Number of batches of this rank's epoch, where the dataset has a length.

        Raises:
            TypeError: It has none.
        """
        samples = len(self.dataset)  # type: ignore[arg-type]
        if self.batch_size is None:
            return samples
        return samples // self.batch_size if self._drop_last else -(-samples // self.batch_size)

    def seek(self, epoch: int, batch: int) -> None:
        """Let the next iteration give batches `batch`, `batch + 1`, ... of epoch `epoch`, both counted from 0.

        Raises:
            ValueError: One of them is negative.
        """
        if epoch < 0 or batch < 0:
            raise ValueError(f"no batch {batch} of epoch {epoch}: both count from 0")
        self._position = (epoch, batch)

    def __iter__(self) -> Iterator[Any]:
        """Iterate once; the position and the ranks are read, and workers are started, at the first `next`.

        Raises:
            FetchError: A sample or its collation raised, or a worker died.
        """
        epoch, start = self._begin()
        rank, _ = self._ranks()
        self._stream.begin(epoch, start, rank)
        self._generator.manual_seed(counter_seed(self._seed, "workers", epoch))
        for step, batch in enumerate(islice(whole_batches(self._loader, epoch), start, None), start):
            yield self._phases.mixed(batch, epoch, step, self._seed, rank)


class SeededStream(IterableDataset[Any]):
    """An iterable-style dataset seen as a stream of collated batches, with draws that follow from their place.

    Args:
        loader: Whose dataset, batch size, `collate_fn` and `drop_last` are taken.
        seed: The run's seed.
    """

    def __init__(self, loader: DataLoader[Any], seed: int) -> None:
        self.dataset, self.collate_fn = loader.dataset, loader.collate_fn
        self.batch_size, self.drop_last = loader.batch_size, loader.drop_last
        self.seed = seed
        self._place = torch.zeros(3, dtype=torch.int64)
        if loader.num_workers:
            self._place.share_memory_()  # type: ignore[no-untyped-call]  # workers that persist do not see attributes change

    def begin(self, epoch: int, start: int, rank: int) -> None:
        """Say what the next iteration is of, in this process and in all workers."""
        self._place.copy_(torch.tensor([epoch, start, rank]))

    def __iter__(self) -> Iterator[Any]:
        """Collated batches; None for those that are passed over, a `Failure` where the dataset raised."""
        epoch, start, rank = self._place.tolist()
        info = get_worker_info()
        worker, workers = (0, 1) if info is None else (info.id, info.num_workers)
        stream = Draws(self.dataset, (self.seed, "stream", epoch, rank, worker), epoch)
        for number in count():
            # Batches come from the workers in turn; once some have ended from fewer, so that this one comes earlier.
            passed_over = number * workers + worker < start
            with preserved_generators():  # in a worker nobody needs them, and nobody waits for it
                try:
                    batch = self._collated(stream, passed_over=passed_over)
                except StopIteration:
                    return
                except Exception as error:
                    batch = Failure.of(
                        error, epoch, f"sample {stream.number}" + (f" of worker {worker}" if info else "")
                    )
            yield batch
            if isinstance(batch, Failure):
                return

    def _collated(self, stream: Draws, *, passed_over: bool) -> Any:
        size = self.batch_size or 1
        samples = list(islice(stream, size))
        if not samples or (self.drop_last and len(samples) < size):
            raise StopIteration
        if passed_over:
            return None
        stream.reseed("collate", stream.number)
        return self.collate_fn(samples if self.batch_size is not None else samples[0])


class Draws:
    """The samples of a stream, each drawn with generators seeded for it.

    Args:
        dataset: Iterated once.
        coordinates: Of the stream.
        epoch: Told to a dataset with `set_epoch`.

    Attributes:
        number: Of samples given so far.
    """

    def __init__(self, dataset: Any, coordinates: tuple[int | str, ...], epoch: int) -> None:
        self.number = 0
        self._dataset, self._coordinates, self._epoch = dataset, coordinates, epoch
        self._samples: Iterator[Any] | None = None

    def __iter__(self) -> Iterator[Any]:
        return self

    def __next__(self) -> Any:
        if self._samples is None:
            self.reseed("start")
            if hasattr(self._dataset, "set_epoch"):
                self._dataset.set_epoch(self._epoch)
            self._samples = iter(self._dataset)
        self.reseed("sample", self.number)
        sample = next(self._samples)
        self.number += 1
        return sample

    def reseed(self, *place: int | str) -> None:
        """Seed the three global generators for a place in the stream."""
        reseed(counter_seed(*self._coordinates, *place))
