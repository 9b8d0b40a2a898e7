"""ResumableLoader: the same batches from any position, by any number of workers, disturbing nobody's random numbers."""

import random

import lightning
import numpy as np
import pytest
import torch
from lightning.fabric.plugins.environments import LightningEnvironment
from torch.utils.data import (
    BatchSampler,
    DataLoader,
    Dataset,
    DistributedSampler,
    IterableDataset,
    RandomSampler,
    SequentialSampler,
    Subset,
    SubsetRandomSampler,
    TensorDataset,
    WeightedRandomSampler,
)

from trustformers_pl.data import ResumableLoader, resumable, why_not_resumable
from trustformers_pl.data.failures import FetchError

torch.set_num_threads(1)


class Augmented(Dataset):
    """A sample is its index and one draw from each of the three generators."""

    def __init__(self, length=23):
        self.length = length
        self.read = []

    def __len__(self):
        return self.length

    def __getitem__(self, index):
        self.read.append(index)
        draws = [torch.rand(()).item(), np.random.rand(), random.random()]
        return torch.tensor([float(index), *draws], dtype=torch.float64)


class InOneCall(Augmented):
    def __getitems__(self, indices):
        return [self[index] for index in indices]


class Ragged(Augmented):
    def __getitem__(self, index):
        return torch.rand(index)


class Stream(IterableDataset):
    def __iter__(self):
        yield from range(3)


class Backwards(SequentialSampler):
    def __iter__(self):
        return iter(range(len(self))[::-1])


class ByEpoch(Backwards):
    """An order that follows from the epoch, as users write them."""

    epoch = 0

    def set_epoch(self, epoch):
        self.epoch = epoch

    def __iter__(self):
        return iter([(index + self.epoch) % len(self) for index in range(len(self) - self.epoch)])


class MyLoader(DataLoader):
    pass


def noisy_collate(samples):
    return torch.stack(samples) + torch.rand(()).double()


def loader(dataset=None, seed=0, **arguments):
    dataset = Augmented() if dataset is None else dataset
    return ResumableLoader(DataLoader(dataset, **({"batch_size": 4, "shuffle": True} | arguments)), seed=seed)


def epoch_of(resumable_loader, epoch, batch=0):
    resumable_loader.seek(epoch, batch)
    return list(resumable_loader)


def same(batches, others):
    return len(batches) == len(others) and all(map(torch.equal, batches, others))


@pytest.mark.parametrize("dataset", [Augmented, InOneCall])
@pytest.mark.parametrize("collate_fn", [None, noisy_collate])
def test_workers_do_not_change_a_bit(dataset, collate_fn):
    # Source: loading in this process.
    alone = loader(dataset(), collate_fn=collate_fn)
    two = loader(dataset(), collate_fn=collate_fn, num_workers=2, persistent_workers=True)
    assert same(epoch_of(alone, 1), epoch_of(two, 1))
    assert same(epoch_of(alone, 2, 3), epoch_of(two, 2, 3))


def test_spawned_workers_do_not_either():
    spawned = loader(num_workers=1, multiprocessing_context="spawn")
    assert same(epoch_of(spawned, 0), epoch_of(loader(), 0))


@pytest.mark.parametrize("batch", [0, 1, 5, 6])
@pytest.mark.parametrize("shuffle", [True, False])
def test_seeking_gives_the_rest_of_the_epoch(batch, shuffle):
    # Source: the same epoch from its start; 23 samples in batches of 4 are 6 batches.
    whole = epoch_of(loader(shuffle=shuffle), 3)
    assert len(whole) == 6
    assert same(epoch_of(loader(shuffle=shuffle), 3, batch), whole[batch:])


def test_seeking_reads_no_sample_before():
    dataset = Augmented()
    epoch_of(loader(dataset), 0, 5)
    assert len(dataset.read) == 3


def test_each_sample_comes_once_an_epoch_in_another_order_with_other_draws():
    first, second = (torch.cat(epoch_of(loader(), epoch)) for epoch in (0, 1))
    # By the definition of an epoch.
    assert first[:, 0].sort().values.tolist() == second[:, 0].sort().values.tolist() == list(range(23))
    assert not torch.equal(first[:, 0], second[:, 0])
    first, second = first[first[:, 0].argsort()], second[second[:, 0].argsort()]
    assert not (first[:, 1:] == second[:, 1:]).any()
    # Within an epoch no two samples share a draw either.
    assert len(first[:, 1:].unique()) == 3 * 23


def test_the_seed_decides():
    assert same(epoch_of(loader(seed=1), 0), epoch_of(loader(seed=1), 0))
    assert not same(epoch_of(loader(seed=1), 0), epoch_of(loader(seed=2), 0))


def test_a_draw_belongs_to_its_sample_whatever_the_batch_size():
    by_four, by_seven = (torch.cat(epoch_of(loader(batch_size=size), 0)) for size in (4, 7))
    assert torch.equal(by_four, by_seven)


@pytest.mark.parametrize(("drop_last", "sizes"), [(False, [10, 10, 3]), (True, [10, 10])])
def test_the_last_batch(drop_last, sizes):
    resumable_loader = loader(batch_size=10, drop_last=drop_last)
    # 23 = 10 + 10 + 3.
    assert [len(batch) for batch in resumable_loader] == sizes
    assert len(resumable_loader) == len(sizes)


def test_without_batch_size_single_samples_come():
    samples = epoch_of(loader(batch_size=None, shuffle=False), 0, 20)
    assert [sample[0].item() for sample in samples] == [20, 21, 22]


def test_without_a_seek_every_iteration_is_the_first_epoch():
    resumable_loader = loader()
    first = list(resumable_loader)
    assert same(list(resumable_loader), first)
    assert same(epoch_of(resumable_loader, 0), first)
    assert not same(epoch_of(resumable_loader, 1), first)
    assert same(list(resumable_loader), first)


def test_the_position_is_read_at_the_first_batch():
    resumable_loader = loader()
    iterator = iter(resumable_loader)
    resumable_loader.seek(2, 4)
    assert same(list(iterator), epoch_of(loader(), 2, 4))


@pytest.mark.parametrize("workers", [0, 1])
def test_global_generators_stay_as_they_were(workers):
    torch.manual_seed(0)
    np.random.seed(0)
    random.seed(0)
    np.random.randn()  # leaves a second normal number waiting, which is state too
    torch.randn(3)
    random.gauss()
    states = torch.get_rng_state(), np.random.get_state(), random.getstate()
    list(loader(num_workers=workers))
    assert torch.equal(torch.get_rng_state(), states[0])
    assert all(np.array_equal(now, then) for now, then in zip(np.random.get_state(), states[1], strict=True))
    assert random.getstate() == states[2]


def test_generators_are_put_back_when_a_sample_fails():
    torch.manual_seed(0)
    state = torch.get_rng_state()
    with pytest.raises(FetchError, match="stack expects each tensor to be equal size"):
        list(loader(Ragged()))
    assert torch.equal(torch.get_rng_state(), state)


class Sure(Augmented):
    deterministic = True


@pytest.mark.parametrize("wrapped", [lambda data: data, lambda data: Subset(data, range(3)), lambda data: data + data])
def test_a_dataset_that_says_it_draws_nothing_is_not_seeded(wrapped):
    torch.manual_seed(0)
    expected = torch.rand(3).double()
    torch.manual_seed(0)
    # The claim is false here, which shows that the draws come from the untouched global generator.
    first = next(iter(loader(wrapped(Sure()), batch_size=3)))
    assert torch.equal(first[:, 1], expected)


@pytest.mark.parametrize("wrapped", [lambda data: Subset(data, range(3)), lambda data: data + Sure()])
def test_a_dataset_that_says_nothing_is_seeded_within_another(wrapped):
    torch.manual_seed(0)
    state = torch.get_rng_state()
    next(iter(loader(wrapped(Augmented()), batch_size=3)))
    assert torch.equal(torch.get_rng_state(), state)


@pytest.mark.parametrize("dataset", [TensorDataset(torch.arange(6)), [(index,) for index in range(6)]])
def test_stored_samples_come_as_they_are(dataset):
    ((batch,),) = loader(dataset, batch_size=6)
    assert sorted(batch.tolist()) == [0, 1, 2, 3, 4, 5]


@pytest.mark.parametrize("position", [(-1, 0), (0, -1), (0, 7)])
def test_positions_that_do_not_exist_are_refused(position):
    with pytest.raises(ValueError, match="batches go from 0 to 6"):
        loader().seek(*position)


def test_a_hand_made_batch_sampler_is_taken_over():
    batches = BatchSampler(SequentialSampler(range(7)), batch_size=3, drop_last=True)
    resumable_loader = resumable(DataLoader(Augmented(), batch_sampler=batches), seed=0)
    assert resumable_loader.batch_size == 3
    assert [batch[:, 0].tolist() for batch in resumable_loader] == [[0, 1, 2], [3, 4, 5]]


@pytest.mark.parametrize(
    ("make", "reason"),
    [
        (lambda: [1, 2], "list is not a plain"),
        (lambda: MyLoader(Augmented()), "MyLoader is not a plain"),
        (lambda: DataLoader(Stream(), in_order=False), "in_order=False"),
        (lambda: DataLoader(Augmented(), sampler=Backwards(range(9))), "Backwards decides the order; give it a method"),
        (
            lambda: DataLoader(Augmented(), sampler=DistributedSampler(range(9), 2, 0)),
            "DistributedSampler gives a rank",
        ),
        (lambda: DataLoader(Augmented(), batch_sampler=[[0, 1], [2]]), "batch_sampler list decides"),
        (lambda: DataLoader(Augmented(), in_order=False), "in_order=False"),
        (lambda: DataLoader(Augmented(), sampler=SequentialSampler(iter([1]))), "list_iterator has no length"),
    ],
)
def test_what_has_no_position_is_left_alone_and_says_why(make, reason):
    given = make()
    assert resumable(given, seed=0) is given
    assert reason in why_not_resumable(given)
    if isinstance(given, DataLoader):
        with pytest.raises(ValueError, match=reason):
            ResumableLoader(given, seed=0)


@pytest.mark.parametrize(
    "make",
    [
        lambda: WeightedRandomSampler([1.0, 2.0, 3.0, 4.0], 11),
        lambda: WeightedRandomSampler([1.0, 2.0, 3.0, 4.0], 11, generator=torch.Generator().manual_seed(3)),
        lambda: SubsetRandomSampler([3, 1, 22, 8, 9]),
        lambda: RandomSampler(range(9), num_samples=4),
        lambda: RandomSampler(range(9), replacement=True),
        lambda: ByEpoch(range(9)),
    ],
)
def test_an_order_that_a_sampler_decides_is_found_again(make):
    def fresh():
        return resumable(DataLoader(Augmented(), batch_size=2, sampler=make()), seed=5)

    whole = [epoch_of(once := fresh(), 0), epoch_of(once, 1)]  # one after the other, as a run does
    again = fresh()
    again.seek(1, 1)
    assert same(list(again), whole[1][1:])  # as a resumed run does
    again.set_epoch(1)
    assert len(again) == len(whole[1])
    assert [batch[:, 0].tolist() for batch in whole[0]] != [batch[:, 0].tolist() for batch in whole[1]]


def test_what_a_sampler_chooses_is_what_is_read():
    chosen = resumable(DataLoader(Augmented(), batch_size=None, sampler=SubsetRandomSampler([3, 1, 22])), seed=0)
    assert sorted(int(sample[0]) for sample in chosen) == [1, 3, 22]
    weighted = WeightedRandomSampler([0.0, 1.0, 0.0, 3.0], 400)
    drawn = [int(sample[0]) for sample in resumable(DataLoader(Augmented(), batch_size=None, sampler=weighted), seed=0)]
    assert set(drawn) == {1, 3}
    assert 260 < drawn.count(3) < 340  # 300 expected, sigma 8.7


def test_a_stream_is_not_for_this_loader():
    with pytest.raises(ValueError, match="take StreamedLoader"):
        ResumableLoader(DataLoader(Stream()), seed=0)


def test_what_is_resumable_already_is_left_alone_without_a_reason():
    once = loader()
    assert resumable(once, seed=1) is once
    assert why_not_resumable(once) is None


def test_a_subset_keeps_its_samples():
    subset = loader(Subset(Augmented(), [5, 6, 7]))
    assert torch.cat(list(subset))[:, 0].sort().values.tolist() == [5, 6, 7]


class Counting(lightning.LightningModule):
    def __init__(self):
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(()))
        self.seen = []

    def training_step(self, batch, batch_idx):
        self.seen.append(batch)
        return self.weight * batch.sum()

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.0)


def test_a_stock_trainer_takes_it_as_it_is():
    module, given = Counting(), loader()
    given.seek(4, 2)
    trainer = lightning.Trainer(
        accelerator="cpu", max_epochs=1, plugins=[LightningEnvironment()], logger=False,
        enable_checkpointing=False, enable_progress_bar=False, enable_model_summary=False,
    )  # fmt: skip
    trainer.fit(module, given)
    # Source: the loader iterated by hand.
    assert same(module.seen, epoch_of(loader(), 4, 2))
    assert trainer.train_dataloader is given


def test_an_empty_dataset_has_no_batches():
    nothing = resumable(DataLoader(Augmented(0), batch_size=4), seed=0)
    assert nothing.batch_size == 4
    assert len(nothing) == 0
    assert list(nothing) == []
