"""StreamedLoader: an iterable-style dataset gives the same batches again, with 0 and several workers.

Expected values come from torch's own DataLoader on the same dataset, and from the loader's own uninterrupted epochs.
"""

import random

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader, IterableDataset, get_worker_info

from trustformers_pl.data import resumable
from trustformers_pl.data.failures import FetchError
from trustformers_pl.data.streamed import StreamedLoader
from trustformers_pl.errors import DataError

torch.set_num_threads(1)


class Numbers(IterableDataset):
    """Its share of 0, 1, 2, ..., each with one draw of the three generators."""

    def __init__(self, length=23, bad=None):
        self.length, self.bad, self.epoch = length, bad, 0

    def set_epoch(self, epoch):
        self.epoch = epoch

    def __iter__(self):
        info = get_worker_info()
        first, step = (info.id, info.num_workers) if info else (0, 1)
        for number in range(first, self.length, step):
            if number == self.bad:
                raise ValueError("a torn record")
            draws = [torch.rand(()).item(), np.random.rand(), random.random()]
            yield torch.tensor([number + 100.0 * self.epoch, *draws], dtype=torch.float64)


class Sized(Numbers):
    def __len__(self):
        return self.length


def loader(dataset=None, **arguments):
    return resumable(DataLoader(dataset or Numbers(), **({"batch_size": 4} | arguments)), seed=3)


def epoch_of(streamed, epoch, batch=0):
    streamed.seek(epoch, batch)
    return list(streamed)


def same(batches, others):
    return len(batches) == len(others) and all(map(torch.equal, batches, others))


@pytest.mark.parametrize("workers", [{}, {"num_workers": 2}, {"num_workers": 3, "persistent_workers": True}])
@pytest.mark.parametrize("drop_last", [False, True])
def test_the_samples_are_torchs_and_every_position_is_found_again(workers, drop_last):
    theirs = list(DataLoader(Numbers(), batch_size=4, drop_last=drop_last, **workers))
    ours = loader(drop_last=drop_last, **workers)
    whole = epoch_of(ours, 0)
    assert [batch[:, 0].tolist() for batch in whole] == [batch[:, 0].tolist() for batch in theirs]
    for start in range(len(whole) + 2):
        assert same(epoch_of(ours, 0, start), whole[start:])
        assert start % 3 or same(epoch_of(loader(drop_last=drop_last, **workers), 0, start), whole[start:])


@pytest.mark.parametrize("workers", [{}, {"num_workers": 2, "persistent_workers": True}])
def test_epochs_differ_and_a_dataset_is_told_which_it_is(workers):
    ours = loader(**workers)
    first = list(ours)
    ours.set_epoch(1)
    second = list(ours)
    assert [int(batch[0, 0]) // 100 for batch in second] == [1] * len(second)
    assert not any(torch.equal(a[:, 1:], b[:, 1:]) for a, b in zip(first, second, strict=True))
    assert same(second, epoch_of(loader(**workers), 1))


def test_every_sample_has_draws_of_its_own():
    values = torch.cat(epoch_of(loader(num_workers=2), 0))[:, 1:]
    assert len(values.unique()) == values.numel()


def test_nobodys_random_numbers_are_disturbed():
    def draws():
        return torch.rand(()).item(), np.random.rand(), random.random()

    torch.manual_seed(0)
    np.random.seed(0)
    random.seed(0)
    expected = [draws() for _ in range(6)]
    torch.manual_seed(0)
    np.random.seed(0)
    random.seed(0)
    assert [draws() for _ in loader()] == expected


def test_what_is_passed_over_is_not_collated():
    collated = []

    def collate(samples):
        collated.append(int(samples[0][0]))
        return torch.stack(samples)

    assert len(epoch_of(loader(collate_fn=collate), 0, 4)) == 2
    assert collated == [16, 20]


def test_a_length_where_the_dataset_has_one():
    assert len(loader(Sized())) == 6
    assert len(loader(Sized(), drop_last=True)) == 5
    with pytest.raises(TypeError):
        len(loader())


def test_single_samples():
    assert [int(sample[0]) for sample in loader(batch_size=None)] == list(range(23))


@pytest.mark.parametrize(("workers", "said"), [(0, "sample 9 of epoch 0"), (2, "sample 4 of worker 1 of epoch 0")])
def test_a_bad_sample_is_named(workers, said):
    batches = iter(loader(Numbers(bad=9), num_workers=workers))
    assert len([next(batches), next(batches)]) == 2
    with pytest.raises(FetchError, match=rf"data: {said}: ValueError: a torn record \(test_streamed"):
        list(batches)


def test_features_that_need_indices_are_refused():
    from trustformers_pl.data import DataPhases

    def backwards(indices, epoch, seed):
        return indices.flip(0)

    phases = DataPhases.of({"order": [backwards]})
    with pytest.raises(DataError, match=r"data: backwards: cannot work .* Numbers is an IterableDataset"):
        StreamedLoader(DataLoader(Numbers()), seed=0, phases=phases)
    with pytest.raises(ValueError, match="take ResumableLoader"):
        StreamedLoader(DataLoader([1.0, 2.0]), seed=0)


@pytest.mark.parametrize("workers", [0, 2])
def test_a_shuffled_stream_of_hugging_face_is_found_again(workers):
    """It shuffles by itself, by files and in a buffer, with a generator of its own that follows from `set_epoch`."""
    datasets = pytest.importorskip("datasets")

    def fresh():
        rows = datasets.Dataset.from_dict({"x": list(range(40))}).to_iterable_dataset(num_shards=4)
        shuffled = rows.shuffle(buffer_size=8, seed=3).with_format("torch")
        return resumable(DataLoader(shuffled, batch_size=4, num_workers=workers), seed=0)

    once = fresh()
    whole = [[batch["x"].tolist() for batch in epoch_of(once, epoch)] for epoch in (0, 1)]
    assert whole[0] != whole[1]
    assert sorted(x for batch in whole[1] for x in batch) == list(range(40))
    assert [batch["x"].tolist() for batch in epoch_of(fresh(), 1, 6)] == whole[1][6:]
