"""Samples that raise are replaced by others of their batch: the same ones on any ranks and workers and after a kill."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import killed
import lightning as L
import pytest
import tiny
import torch
from ranks import on_ranks
from test_signals import files
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, TensorDataset, get_worker_info

from trustformers_pl import assemble
from trustformers_pl.checkpoint import resume_path
from trustformers_pl.data import resumable_datamodule
from trustformers_pl.data.failures import FetchError
from trustformers_pl.data.order import epoch_order
from trustformers_pl.errors import RefusedError
from trustformers_pl.faults import Quarantine
from trustformers_pl.testing.conformance import KILLED_AFTER
from trustformers_pl.testing.sections import LOGGED, SAVED, TWO_RANKS, beside
from trustformers_pl.testing.tiny import TinyText

Write = Callable[..., str]
BAD = (5, 6, 13)
RECIPE = """\
model: {class_path: test_quarantine.Recorder}
data: {class_path: test_quarantine.Damaged}
trainer: {max_steps: 20, accelerator: cpu, val_check_interval: 3, check_val_every_n_epoch: null}
optimizer: {name: adamw, lr: 0.05}
checkpoint: {every_n_steps: 4, keep_last: 100}
metrics: {tokens_per_second: false}
quarantine: {max_samples: 3}
"""
LAST = "checkpoints/step-00000020"


class Samples(Dataset[Any]):
    """30 samples, their index as the third column; some raise, in the process that fetches them."""

    def __init__(self, bad: tuple[int, ...] = BAD, *, deterministic: bool = False) -> None:
        self.samples, self.bad, self.deterministic = tiny.samples(30), bad, deterministic

    def __len__(self) -> int:
        return 30

    def __getitem__(self, index: int) -> tuple[Any, ...]:
        if index in self.bad:
            raise OSError(f"damaged in a worker: {get_worker_info() is not None}")
        x, y = self.samples[index]
        return x + (0 if self.deterministic else torch.rand(4) / 10), y, torch.tensor(index)


class AtOnce(Samples):
    """Fetches a batch in one call."""

    def __getitems__(self, indices: list[int]) -> list[Any]:
        return [self[index] for index in indices]


class Damaged(tiny.Data):
    def __init__(self, bad: tuple[int, ...] = BAD, batch_size: int = 4, num_workers: int = 0, kind: str = "") -> None:
        super().__init__(30, batch_size, num_workers=num_workers)
        self.bad, self.kind = tuple(bad), kind

    def train_dataloader(self) -> DataLoader[Any]:
        data = (AtOnce if self.kind == "at once" else Samples)(self.bad, deterministic=self.kind == "deterministic")
        return DataLoader(data, self.batch_size, shuffle=True, num_workers=self.num_workers)


class Recorder(tiny.Composable):
    """Keeps the indices that it was trained on."""

    def __init__(self) -> None:
        super().__init__(dropout=0.3)
        self.trained: list[list[int]] = []

    def training_step(self, batch: list[Tensor], batch_idx: int) -> Any:
        self.trained.append(batch[2].tolist())
        return super().training_step(batch, batch_idx)


def expected(epochs: int, size: int, bad: tuple[int, ...] = BAD) -> list[list[int]]:
    """By the rule of the documentation, from the order alone: the next sample of the epoch that can be read."""
    batches = []
    for epoch in range(epochs):
        order = epoch_order(30, seed=0, epoch=epoch, shuffle=True).tolist()
        read = [next(index for index in (*order[at:], *order[:at]) if index not in bad) for at in range(30)]
        batches += [read[start : start + size] for start in range(0, 30, size)]
    return batches


def listed(folder: Path) -> list[int]:
    return [json.loads(line)["index"] for line in (folder / "quarantine.jsonl").read_text("utf-8").splitlines()]


@pytest.mark.parametrize("kind", ["", "at once", "deterministic"])
@pytest.mark.parametrize("workers", [0, 2])
def test_bad_samples_are_replaced_named_and_listed(
    write: Write, workers: int, kind: str, caplog: pytest.LogCaptureFixture
) -> None:
    run = assemble(write(RECIPE), [f"data.init_args.num_workers={workers}", f"data.init_args.kind={kind}"])
    with caplog.at_level(logging.WARNING, "trustformers_pl.faults"):
        run.fit()
    assert run.module.trained == expected(3, 4)[:20]
    assert listed(run.folder) == list(BAD)
    for index in BAD:  # once each, though every epoch meets them
        assert sum(f"sample {index} of epoch 0 is set aside" in message for message in caplog.messages) == 1
    assert f"OSError: damaged in a worker: {workers > 0} (test_quarantine.py:" in caplog.text
    assert "3 samples aside" in run.probe()["quarantine"]
    assert "Samples that could not be read" in (run.folder / "report.md").read_text("utf-8")


def test_loaders_that_are_made_anew_are_mended_too(write: Write) -> None:
    run = assemble(write(RECIPE), ["trainer.reload_dataloaders_every_n_epochs=1", "data.init_args.num_workers=1"])
    run.fit()
    assert run.module.trained == expected(3, 4)[:20]


def test_validation_samples_that_raise_end_the_run(write: Write) -> None:
    run = assemble(write(RECIPE.replace("test_quarantine.Damaged", "test_quarantine.DamagedValidation")))
    with pytest.raises(FetchError, match="sample 5 of epoch 0: OSError"):
        run.fit()


class DamagedValidation(Damaged):
    def train_dataloader(self) -> DataLoader[Any]:
        return DataLoader(Samples(()), 4, shuffle=True)

    def val_dataloader(self) -> DataLoader[Any]:
        return DataLoader(Samples(), 4)


def test_the_weights_do_not_depend_on_the_workers(write: Write) -> None:
    weights = []
    for number, workers in enumerate((0, 2)):
        run = assemble(
            write(RECIPE), [f"data.init_args.num_workers={workers}", f"trainer.default_root_dir=run-{number}"]
        )
        run.fit()
        weights.append(run.module.layer.weight)
    assert torch.equal(*weights)


@pytest.mark.parametrize("workers", [0, 2])
def test_one_too_many_ends_the_run_and_it_goes_on_when_they_are_allowed(write: Write, workers: int) -> None:
    recipe, overrides = write(RECIPE), [f"data.init_args.num_workers={workers}"]
    assemble(recipe, [*overrides, "trainer.default_root_dir=whole"]).fit()
    few = [*overrides, "quarantine.max_samples=2"]
    with pytest.raises(FetchError, match=r"^data: samples \d+, \d+, \d+ cannot be read, which is more than") as error:
        assemble(recipe, few).fit()
    assert "quarantine.max_samples = 2; the last one, of epoch 0: OSError" in str(error.value)
    assert resume_path("runs/recipe/checkpoints") is not None
    assert len(listed(Path("runs/recipe"))) == 2
    resumed = assemble(recipe, overrides)
    resumed.fit(resume="force")
    assert 0 < len(resumed.module.trained) < 20
    found, whole = (files(folder / LAST) for folder in (Path("runs/recipe"), Path("whole")))
    assert found == whole


def test_bad_samples_that_leave_none_of_the_batch_are_replaced_from_the_next(write: Write) -> None:
    bad = (3, 4, 5)
    run = assemble(write(RECIPE), ["data.init_args.batch_size=1", "data.init_args.bad=[3,4,5]", "trainer.max_steps=30"])
    run.fit()
    assert run.module.trained == expected(1, 1, bad)


@pytest.mark.parametrize("ranks", [1, 2])
def test_a_killed_run_resumes_bit_for_bit(tmp_path: Path, ranks: int) -> None:
    """Killed after the epoch's fifth step of eight, between two checkpoints."""
    sections = beside(
        {"quarantine": {"max_samples": 3}, "data": {"class_path": "test_quarantine.DamagedText"}},
        *(SAVED, LOGGED, TWO_RANKS if ranks == 2 else {}),
        devices=ranks,
    )
    whole, resumed = killed.resumed_on_ranks(ranks, sections, tmp_path, KILLED_AFTER)
    assert whole.evidence["quarantine"] == resumed.evidence["quarantine"] == "set 2 samples aside"


class DamagedText(TinyText):
    """The kit's text, of which two samples raise."""

    def train_dataloader(self) -> Any:
        loader = super().train_dataloader()
        return DataLoader(tiny.Raising(loader.dataset, {2, 11}), loader.batch_size, shuffle=True)


def test_what_no_sample_can_replace_ends_the_run(write: Write) -> None:
    run = assemble(write(RECIPE), [f"data.init_args.bad={list(range(30))}"])
    with pytest.raises(FetchError, match=r"none of the \d+ samples tried in its place can be read"):
        run.fit()


def test_an_error_of_the_collation_is_no_sample_s(write: Write) -> None:
    run = assemble(write(RECIPE.replace("test_quarantine.Damaged", "test_quarantine.Ragged")))
    with pytest.raises(FetchError, match=r"the batch of samples .* of epoch 0: RuntimeError: stack expects"):
        run.fit()


class Ragged(tiny.Data):
    def train_dataloader(self) -> DataLoader[Any]:
        return DataLoader([torch.zeros(1 + index) for index in range(30)], 4)  # type: ignore[arg-type]


RANKS = """
import json, logging, pathlib, torch, test_quarantine as t
from trustformers_pl import assemble
run = assemble({{**t.AS_DICT, "trainer": {{**t.AS_DICT["trainer"], "devices": 2, "default_root_dir": "{folder}"}}}})
run.fit()
print(json.dumps([run.module.trained, run.module.layer.weight.tolist(), sorted(run.callbacks("Quarantine")[0].found)]))
"""
AS_DICT: dict[str, Any] = {
    "model": {"class_path": "test_quarantine.Recorder"},
    "data": {"class_path": "test_quarantine.Damaged", "init_args": {"batch_size": 2}},
    "trainer": {"max_steps": 16, "accelerator": "cpu", "num_sanity_val_steps": 0},
    "optimizer": {"name": "adamw", "lr": 0.05},
    "ddp": {},
    "quarantine": {"max_samples": 3},
}


def test_two_ranks_read_what_one_process_reads_and_share_one_list(tmp_path: Path) -> None:
    told = [json.loads(out) for out in on_ranks(2, RANKS.format(folder=tmp_path))]
    assert told[0][1] == told[1][1]
    together = [a + b for a, b in zip(told[0][0], told[1][0], strict=True)]
    assert together == expected(2, 4)
    assert told[0][2] == told[1][2] == listed(tmp_path) == list(BAD)


def test_the_cap_is_of_all_ranks_together(tmp_path: Path) -> None:
    code = RANKS.replace('"devices": 2', '"devices": 2, "max_steps": 100').replace(
        "t.AS_DICT,", "t.AS_DICT, **t.FEW,", 1
    )
    with pytest.raises(AssertionError, match=r"samples \d+, \d+, \d+ cannot be read, which is more than") as error:
        on_ranks(2, code.format(folder=tmp_path))
    assert "quarantine.max_samples = 2" in str(error.value)


FEW = {"quarantine": {"max_samples": 2}}


class Stock(Recorder):
    def configure_optimizers(self) -> Any:
        return torch.optim.SGD(self.parameters(), lr=0.1)


def test_in_a_stock_trainer() -> None:
    quarantine = Quarantine(max_samples=3)
    trainer = L.Trainer(
        max_epochs=1, accelerator="cpu", logger=False, enable_checkpointing=False, callbacks=[quarantine]
    )
    module = Stock()
    trainer.fit(module, resumable_datamodule(Damaged(), seed=0))
    assert module.trained == expected(1, 4)
    assert sorted(quarantine.found) == listed(Path()) == list(BAD)


@pytest.mark.parametrize("loader", [DataLoader(TensorDataset(torch.zeros(4, 4), torch.zeros(4, 1)))])
def test_a_loader_that_it_cannot_mend_is_refused(loader: DataLoader[Any]) -> None:
    trainer = L.Trainer(
        max_epochs=1, accelerator="cpu", logger=False, enable_checkpointing=False, callbacks=[Quarantine()]
    )
    with pytest.raises(RefusedError, match=r"^quarantine: the training loader is a DataLoader, whose samples cannot"):
        trainer.fit(Stock(), loader)
