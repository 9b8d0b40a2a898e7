"""A loader that starts at any batch of any epoch, and gives the same batches however many workers load them."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any

import torch
from torch.utils.data import DataLoader, IterableDataset, RandomSampler

from trustformers_pl.data.batches import SeekableBatches
from trustformers_pl.data.deaths import whole_batches
from trustformers_pl.data.eligible import decides_batches, is_usual, why_not_resumable
from trustformers_pl.data.failures import Told
from trustformers_pl.data.order import counter_seed, epoch_order
from trustformers_pl.data.phases import DataPhases
from trustformers_pl.data.position import Positioned
from trustformers_pl.data.ranks import contiguous_share, process_ranks
from trustformers_pl.data.recalled import recalled
from trustformers_pl.data.replaced import MendedBatches
from trustformers_pl.data.seeded import SeededBatches
from trustformers_pl.data.streamed import StreamedLoader
from trustformers_pl.data.taken_over import as_fetched, worker_settings

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from torch import Tensor

    from trustformers_pl.data.batches import Order, Slices
    from trustformers_pl.data.failures import Note

    Ranks = Callable[[], tuple[int, int]]


class ResumableLoader(Positioned):
    """A map-style `DataLoader` made over so that its batches are a pure function of (seed, epoch, batch).

    Every iteration starts at batch 0 of epoch 0 unless `seek` was called before it. Nothing depends on the number of
    workers, nor on the global generators, which iterating leaves as they were (see `SeededBatches`, also for what is
    seeded when). A sampler of its own, which `why_not_resumable` takes, is asked for each epoch's order as `recalled`
    says.

    On several data ranks each reads its share of every global batch, of `batch_size` x ranks samples. Which samples
    make a global batch, and their order, does not depend on the number of ranks that share it.

    Args:
        loader: Whose dataset, batch size, `collate_fn`, shuffling, `drop_last` and worker settings are taken over; it
            is not iterated. Its own `generator` is not used: the order follows from `seed`.
        seed: The run's seed.
        phases: What features change.
        ranks: Gives (rank, ranks) of this process among those that read different data; asked when it matters.

    Raises:
        ValueError: If `why_not_resumable(loader)` has a reason.
        DataError: If SOURCE gives no map-style dataset, or BATCH is owned and the loader does not batch.
    """

    def __init__(
        self,
        loader: DataLoader[Any],
        *,
        seed: int,
        phases: DataPhases | None = None,
        ranks: Ranks = process_ranks,
    ) -> None:
        reason = "it can seek already" if hasattr(loader, "seek") else why_not_resumable(loader)
        if reason is None and isinstance(loader.dataset, IterableDataset):
            reason = "its dataset has no index; take StreamedLoader"
        if reason is not None:
            raise ValueError(reason)
        # A hand-made BatchSampler leaves the loader's own batch_size, sampler and drop_last at their defaults.
        batches: Any = decides_batches(loader)
        self._phases = phases or DataPhases()
        self._phases.refuse_unbatched(batches.batch_size)
        self.dataset = self._phases.sourced(loader.dataset, seed)
        self.batch_size: int | None = batches.batch_size
        self._seed = seed
        self._generator = torch.Generator()
        sampler, usual = batches.sampler, is_usual(batches.sampler)
        length = len(sampler) if usual and not self._phases.source else len(self.dataset)
        order: Order = partial(epoch_order, length, shuffle=isinstance(sampler, RandomSampler))
        if not usual:
            self._phases.refuse_source(type(sampler).__name__)
            order = partial(recalled, sampler)
        self._batches = SeekableBatches(
            length,
            self.batch_size,
            order,
            visited=length if usual else None,
            seed=seed,
            drop_last=batches.drop_last,
            phases=self._phases,
            ranks=ranks,
        )
        self._phases.prepare(self.dataset, self._batches.global_size)
        self._note: Note | None = None
        self._loader = self._rebuilt(loader, SeededBatches(self.dataset, loader.collate_fn, seed=self._seed))

    def replace_bad(self, at_most: int, note: Note) -> None:
        """Let samples that raise be replaced by others from now on (see `MendedBatches`); before the first iteration.

        Args:
            at_most: Bad samples that the run may have.
            note: Called with each bad sample of a batch that is about to be given out; may raise.
        """
        if self._note == note:
            return
        self._note, self._batches.spares = note, at_most + 1
        fetched: Any = self._loader.dataset
        self._loader = self._rebuilt(self._loader, MendedBatches(self.dataset, fetched.collate_fn, seed=self._seed))

    def _rebuilt(self, loader: DataLoader[Any], batches: SeededBatches) -> DataLoader[Any]:
        return DataLoader(
            batches,
            batch_size=None,
            sampler=self._batches,
            collate_fn=as_fetched,
            generator=self._generator,
            **worker_settings(loader),
        )

    @property
    def mixes(self) -> tuple[Callable[[Any, int, int, int], Any], ...]:
        """The functions of the phase MIX."""
        return self._phases.mix

    @property
    def count_varies(self) -> bool:
        """Whether epochs may differ in their number of batches: a feature orders or batches the samples."""
        return self._batches.count_varies

    @property
    def shares_slices(self) -> bool:
        """Whether ranks read contiguous slices of each batch, in their order: no feature shares samples out."""
        return self._phases.shard is contiguous_share

    def samples_in(self, batch: int) -> int:
        """Samples in a batch of all ranks together, without those that ranks repeat to have something to do."""
        return self._batches.samples_in(self._epoch, batch)

    def batches_in(self, epoch: int) -> Slices | list[Tensor]:
        """The global batches of an epoch, as indices of the dataset: (B,) int64 each."""
        return self._batches.global_batches(epoch)

    def of_samples(self, indices: Tensor, batch_size: int) -> Iterator[Any]:
        """Collated batches of some samples in their order, without MIX: for passes over them outside of training.

        Nothing is disturbed: samples are read in this process, those with augmentation as in epoch 0. Where bad samples
        are replaced, those of a batch are by its others, the next ones of `indices`, or the dataset's first ones.

        Args:
            indices: (N,) int64.
            batch_size: Samples in a batch; the last one may have fewer.

        Raises:
            FetchError: A sample or its collation raised.
        """
        fetched: Any = self._loader.dataset
        apart = type(fetched)(self.dataset, fetched.collate_fn, seed=self._seed)
        for start in range(0, len(indices), batch_size):
            own, spares = indices[start : start + batch_size].tolist(), self._batches.spares
            others = [*indices[start + batch_size :][:spares].tolist(), *range(min(spares, len(self.dataset)))]
            batch = apart[(0, own, [*own, *others]) if spares else (0, own)]
            yield batch.delivered(self._note) if isinstance(batch, Told) else batch

    def __len__(self) -> int:
        """Number of batches in the whole epoch that comes next, wherever the iteration starts; equal on all ranks."""
        return self._batches.count(self._position[0] if self._position else self._epoch)

    def seek(self, epoch: int, batch: int) -> None:
        """Let the next iteration give batches `batch`, `batch + 1`, ... of epoch `epoch`, both counted from 0.

        Costs one permutation of the indices, at the first `next`, and what features do to the order; reads no sample
        before `batch`.

        Raises:
            ValueError: If there is no such position; behind the last batch is one, with nothing after it.
        """
        count = self._batches.count(epoch) if epoch >= 0 else len(self)
        if epoch < 0 or not 0 <= batch <= count:
            raise ValueError(f"no batch {batch} of epoch {epoch}: batches go from 0 to {count}, epochs from 0")
        self._position = (epoch, batch)

    def __iter__(self) -> Iterator[Any]:
        """Iterate once; the position and the ranks are read, and workers are started, at the first `next`.

        Raises:
            FetchError: A sample or its collation raised, or a worker died.
        """
        epoch, start = self._begin()
        self._batches.epoch, self._batches.start = epoch, start
        self._generator.manual_seed(counter_seed(self._seed, "workers", epoch))
        rank, _ = self._batches.ranks()
        for step, batch in enumerate(whole_batches(self._loader, epoch, self._note), start):
            yield self._phases.mixed(batch, epoch, step, self._seed, rank)


def resumable(loader: Any, *, seed: int, phases: DataPhases | None = None, ranks: Ranks = process_ranks) -> Any:
    """A `ResumableLoader` made of `loader`, or a `StreamedLoader` where its dataset is an `IterableDataset`.

    Returns:
        `loader` as it is, if it can seek or `why_not_resumable` has a reason.
    """
    if hasattr(loader, "seek") or why_not_resumable(loader) is not None:
        return loader
    made = StreamedLoader if isinstance(loader.dataset, IterableDataset) else ResumableLoader
    return made(loader, seed=seed, phases=phases, ranks=ranks)
