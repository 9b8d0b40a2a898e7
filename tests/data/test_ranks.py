"""Each rank's share: together the ranks read what one process reads, step by step."""

from __future__ import annotations

import json
import logging
from typing import Any

import phased
import pytest
import tiny
import torch
from lightning import Trainer
from lightning.pytorch.plugins.environments import LightningEnvironment
from lightning.pytorch.strategies import SingleDeviceStrategy
from ranks import on_ranks
from torch.utils.data import DataLoader, IterableDataset

from trustformers_pl.data import resumable_datamodule
from trustformers_pl.data.ranks import contiguous_share, data_ranks
from trustformers_pl.errors import DataError

CODE = """
import json, torch, tiny, phased
from torch.utils.data import DataLoader
from trustformers_pl import assemble
from trustformers_pl.data import resumable_datamodule

RANKS = {ranks}

class Indices(tiny.Data):
    def train_dataloader(self):
        return DataLoader(torch.arange(27.0), 8 // RANKS, shuffle=True)
    def val_dataloader(self):
        return DataLoader(torch.arange(10.0), 4 // RANKS)

tiny.Indices = Indices
run = assemble({{
    "model": {{"class_path": "phased.Records"}}, "data": {{"class_path": "tiny.Indices"}},
    "trainer": {{"max_epochs": 2, "accelerator": "cpu", "strategy": "ddp", "devices": RANKS,
                 "num_sanity_val_steps": 0}},
}})
run.fit()
loader = run.datamodule.train_dataloader()
loader.seek(1, 2)
told = {{
    "trained": run.module.trained, "validated": run.module.validated, "tail": [b.tolist() for b in loader],
    "lengths": [len(loader), len(run.datamodule.val_dataloader()), run.trainer.num_training_batches],
    "weight": run.module.layer.weight.item(),
}}
resumable_datamodule(run.datamodule, seed=0, phases={{"order": [phased.growing_pool], "batch": [phased.uneven]}})
phases = run.datamodule.train_dataloader()
told["phases"] = [b.tolist() for b in phases]
phases.seek(0, 1)
told["phases_tail"] = [b.tolist() for b in phases]
told["phases_length"] = len(phases)
print(json.dumps(told))
"""


@pytest.fixture(scope="module")
def by_ranks() -> dict[int, list[dict[str, Any]]]:
    """What each rank of 1, 2 and 4 tells."""
    outputs = {ranks: on_ranks(ranks, CODE.format(ranks=ranks)) for ranks in (1, 2, 4)}
    return {ranks: [json.loads(text.splitlines()[-1]) for text in texts] for ranks, texts in outputs.items()}


def together(told: list[dict[str, Any]], key: str) -> list[list[float]]:
    """The global batches: ranks' shares in rank order, step by step."""
    steps = zip(*(rank[key] for rank in told), strict=True)
    return [[sample for share in step for sample in share] for step in steps]


@pytest.mark.parametrize("ranks", [2, 4])
@pytest.mark.parametrize("key", ["trained", "validated", "tail", "phases", "phases_tail"])
def test_the_ranks_together_read_what_one_process_reads(by_ranks: Any, ranks: int, key: str) -> None:
    (alone,) = by_ranks[1]
    batches = together(by_ranks[ranks], key)
    assert len(batches) == len(alone[key]) > 0
    for batch, expected in zip(batches, alone[key], strict=True):
        # Source: the single process. Fewer samples than ranks are padded with the batch's own, from its start.
        assert batch == (expected * ranks)[: max(len(expected), ranks)]


@pytest.mark.parametrize("ranks", [1, 2, 4])
def test_all_ranks_agree_on_the_numbers_of_batches(by_ranks: Any, ranks: int) -> None:
    for told in by_ranks[ranks]:
        # By hand: 27 samples in global batches of 8, 10 in global batches of 4.
        assert told["lengths"] == [4, 3, 4]
        assert told["phases_length"] == len(told["phases"])


def test_shares_are_balanced_and_seeks_give_the_tail(by_ranks: Any) -> None:
    (alone,) = by_ranks[1]
    assert sorted(sample for batch in alone["trained"][:4] for sample in batch) == list(range(27))
    assert alone["trained"][:4] != alone["trained"][4:]
    assert alone["tail"] == alone["trained"][6:]
    for ranks, told in by_ranks.items():
        # By hand: the last batch of the epoch has 27 - 24 = 3 samples, and every rank trains on one at least.
        assert [len(rank["trained"][3]) for rank in told] == {1: [3], 2: [2, 1], 4: [1, 1, 1, 1]}[ranks]
        assert all(rank["tail"] == rank["trained"][6:] for rank in told)
        assert all(rank["phases_tail"] == rank["phases"][1:] for rank in told)
        assert len({rank["weight"] for rank in told}) == 1


@pytest.mark.parametrize(
    ("samples", "ranks", "expected"),
    [
        # By hand.
        (6, 1, [[0, 1, 2, 3, 4, 5]]),
        (6, 3, [[0, 1], [2, 3], [4, 5]]),
        (7, 3, [[0, 1, 2], [3, 4], [5, 6]]),
        (2, 5, [[0], [1], [0], [1], [0]]),
    ],
)
def test_contiguous_shares(samples: int, ranks: int, expected: list[list[int]]) -> None:
    shares = [contiguous_share(torch.arange(samples), rank, ranks).tolist() for rank in range(ranks)]
    assert shares == expected


class ModelOnTwo(SingleDeviceStrategy):
    """One of two processes that hold a model's halves beside another pair: it says which data are its own."""

    data_rank = 1
    data_ranks = 2


def attached(data: Any, **arguments: Any) -> Any:
    quiet = {"enable_checkpointing": False, "enable_progress_bar": False, "enable_model_summary": False}
    module = phased.Records()
    trainer = Trainer(max_steps=2, logger=False, plugins=[LightningEnvironment()], **quiet, **arguments)
    trainer.fit(module, datamodule=data)
    return module


class InOrder(tiny.Data):
    def train_dataloader(self) -> Any:
        return DataLoader(torch.arange(12.0), self.batch_size, drop_last=True)  # type: ignore[arg-type]

    def val_dataloader(self) -> Any:
        return [DataLoader(torch.arange(6.0), 2)]  # type: ignore[arg-type]


def test_a_strategy_says_which_data_are_its_own() -> None:
    data = resumable_datamodule(InOrder(batch_size=2), seed=0)
    module = attached(data, strategy=ModelOnTwo())
    # By hand: the second half of global batches of 2 x 2, in order.
    assert module.trained == [[2, 3], [6, 7]]
    # The sanity check; of the last global batch [4, 5] it has the second half.
    assert module.validated == [[2, 3], [5]]
    assert data_ranks(module.trainer) == (1, 2)
    assert data_ranks(None) == (0, 1)


def test_the_owner_of_shard_decides_for_validation_too() -> None:
    def strided(indices: torch.Tensor, rank: int, ranks: int) -> torch.Tensor:
        return indices[rank::ranks]

    data = resumable_datamodule(InOrder(batch_size=2), seed=0, phases={"shard": [strided]})
    module = attached(data, strategy=ModelOnTwo())
    # By hand: each second sample.
    assert module.trained == [[1, 3], [5, 7]]
    assert module.validated == [[1, 3], [5]]


def test_a_loader_without_batches_shares_out_samples() -> None:
    class Unbatched(tiny.Data):
        def train_dataloader(self) -> Any:
            return DataLoader(torch.arange(5.0), batch_size=None)  # type: ignore[arg-type]

    data = resumable_datamodule(Unbatched(), seed=0)
    data.trainer = Trainer(strategy=ModelOnTwo(), logger=False, plugins=[LightningEnvironment()])
    # By hand: every second sample; the last one is shared by both.
    assert [sample.item() for sample in data.train_dataloader()] == [1, 3, 4]


def test_a_global_batch_that_the_data_do_not_fill_is_refused() -> None:
    data = resumable_datamodule(InOrder(batch_size=7), seed=0)
    with pytest.raises(DataError, match="12 samples with batch_size=7 on each of 2 ranks and drop_last"):
        attached(data, strategy=ModelOnTwo())


def test_a_loader_that_cannot_be_shared_out_is_named(caplog: pytest.LogCaptureFixture) -> None:
    class Unordered(InOrder):
        def train_dataloader(self) -> Any:
            return DataLoader(torch.arange(4.0), 2, in_order=False)  # type: ignore[arg-type]

    with caplog.at_level(logging.WARNING):
        attached(resumable_datamodule(Unordered(), seed=0), strategy=ModelOnTwo())
    assert "each of 2 ranks reads all of the training data: in_order=False" in caplog.text


def test_a_stream_is_shared_out_by_itself_and_says_so(caplog: pytest.LogCaptureFixture) -> None:
    class Stream(IterableDataset[float]):
        def __iter__(self) -> Any:
            return iter([1.0, 2.0])

    class Streamed(InOrder):
        def train_dataloader(self) -> Any:
            return DataLoader(Stream())

    with caplog.at_level(logging.WARNING):
        attached(resumable_datamodule(Streamed(), seed=0), strategy=ModelOnTwo())
    assert "each of 2 ranks reads what Stream gives it; share the training data out there" in caplog.text
