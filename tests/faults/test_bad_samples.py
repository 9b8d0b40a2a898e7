"""Data that fail: one line names the sample, and the run goes on from the step before it once the data are mended."""

from __future__ import annotations

import logging
import os
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import tiny
import torch
from lightning import Trainer
from safetensors import safe_open
from test_signals import files
from torch.utils.data import DataLoader, Dataset, default_collate, get_worker_info

from trustformers_pl import assemble
from trustformers_pl.checkpoint import resume_path
from trustformers_pl.data.failures import FetchError
from trustformers_pl.data.seeded import SeededBatches
from trustformers_pl.errors import CheckpointError
from trustformers_pl.open_window import OpenWindow
from trustformers_pl.stateful import Scope, State

Write = Callable[..., str]
RECIPE = """\
model: {class_path: tiny.Composable, init_args: {dropout: 0.3}}
data: {class_path: test_bad_samples.Mendable}
trainer: {max_steps: 20, accelerator: cpu, val_check_interval: 3, check_val_every_n_epoch: null}
optimizer: {name: adamw, lr: 0.05}
ema: {decay: 0.9}
checkpoint: {every_n_steps: 100}
metrics: {tokens_per_second: false}
csv: {}
"""
LAST = "checkpoints/step-00000020"


class Samples(Dataset[Any]):
    """The sample 13 raises, or kills its worker, while there is a file that says so."""

    def __init__(self) -> None:
        self.samples = tiny.samples(32)

    def __len__(self) -> int:
        return len(self.samples)

    def __getitem__(self, index: int) -> tuple[Any, ...]:
        if index == 13 and Path("raises").exists():
            raise ValueError("not a\nnumber")
        if index == 13 and Path("kills").exists() and get_worker_info() is not None:
            time.sleep(0.5)  # until the batches before it are sent and trained on
            os.kill(os.getpid(), signal.SIGKILL)
        return self.samples[index]


class Mendable(tiny.Data):
    def train_dataloader(self) -> DataLoader[Any]:
        return DataLoader(Samples(), self.batch_size, shuffle=self.shuffle, num_workers=self.num_workers)


def ends_and_goes_on(recipe: str, fault: str, match: str, *overrides: str, pending: bool = False) -> int:
    """Train with a fault, mend it, train on; the end is that of a run without. Returns the step that was saved.

    What was saved has gradients if `pending`, and none otherwise.
    """
    whole = assemble(recipe, [*overrides, "trainer.default_root_dir=whole"])
    whole.fit()
    Path(fault).touch()
    with pytest.raises(FetchError, match=match):
        assemble(recipe, overrides).fit()
    Path(fault).unlink()
    saved = resume_path("runs/recipe/checkpoints")
    if saved is not None:
        with safe_open(Path(saved, "tensors.safetensors"), "pt") as file:
            assert any(".own.window." in key and ".gradients." in key for key in file.keys()) == pending  # noqa: SIM118
    assemble(recipe, overrides).fit()
    assert files(Path("runs/recipe") / LAST) == files(Path("whole") / LAST)
    return 0 if saved is None else int(saved[-8:])


@pytest.mark.parametrize("workers", [0, 2])
def test_a_sample_that_raises_is_named_and_the_step_before_it_saved(write: Write, workers: int) -> None:
    match = r"^data: sample 13 of epoch 0: ValueError: not a number \(test_bad_samples.py:\d+\); mend it"
    assert ends_and_goes_on(write(RECIPE), "raises", match, f"data.init_args.num_workers={workers}") > 0


def test_the_saved_state_is_the_one_of_the_step_boundary(write: Write) -> None:
    """Byte for byte the checkpoint that a run which saves every step has written there; their manifests name recipes."""
    recipe = write(RECIPE)
    assemble(recipe, ["checkpoint={every_n_steps: 1, keep_last: 100}", "trainer.default_root_dir=every"]).fit()
    Path("raises").touch()
    with pytest.raises(FetchError):
        assemble(recipe).fit()
    saved = Path(str(resume_path("runs/recipe/checkpoints")))
    found, expected = files(saved), files(Path("every/checkpoints") / saved.name)
    assert found.pop("manifest.json")
    assert expected.pop("manifest.json")
    assert found == expected


def test_a_killed_worker_is_told_in_one_line_and_the_step_before_it_saved(write: Write) -> None:
    match = (
        r"^data: epoch 0: DataLoader worker \(.*\d\) (is killed by signal: Killed|exited unexpectedly); out of memory\?"
    )
    overrides = ["data.init_args.num_workers=1", "data.init_args.shuffle=false"]
    assert ends_and_goes_on(write(RECIPE), "kills", match, *overrides) == 3


@pytest.mark.parametrize(
    "more",
    [
        [],
        ["spikes={of: [loss, grad_norm]}"],
        ["precision={dtype: fp16, initial_scale: 1024.0}", "clip={norm: 0.5}"],
        ["precision={dtype: fp16, opt_level: O2}"],
    ],
    ids=["plain", "spikes", "fp16", "fp16-O2"],
)
def test_inside_an_accumulation_window_its_gradients_are_saved_too(write: Write, more: list[str]) -> None:
    # Sample 13 is in batch 3, the second micro-batch of step 2; the step before it is saved by itself, too.
    overrides = ["data.init_args.shuffle=false", "accumulate={batches: 2}", "checkpoint.every_n_steps=1", *more]
    assert ends_and_goes_on(write(RECIPE), "raises", "sample 13 of epoch 0", *overrides, pending=True) == 1


def test_a_window_of_several_ranks_is_gone_on_with_by_as_many_only() -> None:
    trainer = Trainer(accelerator="cpu", logger=False, enable_checkpointing=False)
    window = OpenWindow(trainer)
    states = [State({"gradients": {}, "counts": None}, 1, Scope.RANK)] * 2
    with pytest.raises(
        CheckpointError, match="inside an accumulation window of 2 ranks, and this run has 1; resume with 2"
    ):
        window.load_all_ranks(states, 0, 1)


def test_where_it_would_not_be_exact_nothing_is_saved(write: Write, caplog: pytest.LogCaptureFixture) -> None:
    overrides = ["data.init_args.shuffle=false", "data.init_args.batch_size=16"]  # sample 13 is in the first batch
    with caplog.at_level(logging.WARNING, "trustformers_pl.faults"):
        assert ends_and_goes_on(write(RECIPE), "raises", "sample 13 of epoch 0", *overrides) == 0
    assert "not saved before the batch that failed: it is the first of its epoch" in caplog.text


@pytest.mark.parametrize("deterministic", [False, True])
def test_a_sample_is_told_from_the_collation_of_its_batch(deterministic: bool) -> None:
    data = Samples()
    data.deterministic = deterministic  # type: ignore[attr-defined]
    Path("raises").touch()
    batches = SeededBatches(data, default_collate, seed=0)
    assert batches[0, [1, 13, 2]].what == "sample 13"
    assert batches[0, 13].what == "sample 13"
    ragged = [torch.zeros(number) for number in range(1, 6)]
    assert (
        SeededBatches(ragged, default_collate, seed=0)[0, [0, 1, 2, 3]].what
        == "the batch of samples 0, 1, 2 and 1 more"
    )
