"""The lean loop against Lightning's own: whatever a run does, nothing that one could see of it differs.

The expected values of every comparison are what Lightning's own loop gives for the same fit.
"""

from __future__ import annotations

import json
import logging
import os
import signal
import sys
from pathlib import Path
from typing import Any

import pytest
import tiny
import torch
from lightning import Callback, LightningModule, Trainer
from lightning.pytorch.loops.training_epoch_loop import _TrainingEpochLoop
from lightning.pytorch.utilities.exceptions import SIGTERMException
from ranks import on_ranks

from trustformers_pl.environment import cluster_environment
from trustformers_pl.lightning_guard import changed
from trustformers_pl.loop import exact_loop
from trustformers_pl.precision_order import OrderedPrecision
from trustformers_pl.recipe.layers import environment_sections

sys.path.insert(0, str(Path(__file__).parent))
import loop_job as job

ASKED = "TFPL_LOOP=stock asks for it"


@pytest.mark.parametrize(
    ("module", "more"),
    [
        (job.Job, {"max_steps": 10}),
        (job.Job, {"max_epochs": 2, "val_check_interval": 3, "gradient_clip_val": 0.1}),
        (job.Job, {"max_steps": 13, "val_check_interval": 5, "check_val_every_n_epoch": None}),
        # 8 batches an epoch in windows of 3: the last window of each epoch has two.
        (job.Job, {"max_epochs": 2, "accumulate_grad_batches": 3, "val_check_interval": 4}),
        (job.SkipsSome, {"max_steps": 9}),
        (job.SkipsSome, {"max_epochs": 2, "accumulate_grad_batches": 2}),
        (job.LeavesEpochs, {"max_epochs": 2, "limit_val_batches": 1}),
        (job.LeavesEpochs, {"max_epochs": 2, "accumulate_grad_batches": 4}),
        (job.Doubles, {"max_steps": 10, "accumulate_grad_batches": 2}),
        (job.Logs, {"max_epochs": 2, "val_check_interval": 3}),
        (job.Logs, {"max_epochs": 2, "accumulate_grad_batches": 3, "callbacks": (job.LogsInCallback(),)}),
        (job.Job, {"max_steps": 12, "callbacks": (job.Stops(),), "val_check_interval": 4}),
        (job.Job, {"max_epochs": 3, "min_epochs": 2, "callbacks": (job.Stops(),)}),
        (job.Job, {"fast_dev_run": 3, "callbacks": (job.LogsInCallback(),)}),
    ],
)
@pytest.mark.parametrize("recorded", [False, True])
def test_the_two_loops_look_the_same(tmp_path: Path, module: Any, more: dict[str, Any], recorded: bool) -> None:
    """Weights, every checkpoint's bytes, metrics.csv, loop state, metrics; recorded: every hook with all counters."""
    (lean, why_lean), (stock, why_stock) = job.both(tmp_path, module, recorded, **more)
    assert (why_lean, why_stock) == (None, ASKED)
    assert bool(lean["calls"]) is recorded
    for ours, theirs in zip(lean["calls"], stock["calls"], strict=True):
        assert ours == theirs
    assert list(lean["files"]) == list(stock["files"])
    assert lean == stock


def test_every_hook_is_among_those_compared(tmp_path: Path) -> None:
    lean, _ = job.fit(tmp_path, job.Job, recorded=True, max_steps=10, val_check_interval=3)
    called = {(who, hook) for who, hook, *_ in lean["calls"]}
    assert called == {("callback", h) for h in job.BOTH} | {("module", h) for h in job.BOTH + job.MODULE}


def test_a_callback_that_comes_later_is_called(tmp_path: Path) -> None:
    (lean, _), (stock, _) = job.both(tmp_path, job.Job, True, (job.Comes(job.LogsInCallback()),), max_steps=8)
    assert "after" in lean["metrics"]
    assert lean == stock


def test_hooks_on_instances_are_called(tmp_path: Path) -> None:
    """As Lightning does: attributes of the callback or module itself count, and what cannot be called does not."""
    seen: list[int] = []
    callback, silent = Callback(), Callback()
    callback.on_train_batch_end = lambda trainer, *rest: seen.append(trainer.global_step)  # type: ignore[method-assign]
    silent.on_train_batch_end = None  # type: ignore[method-assign,assignment]
    _, why = job.fit(tmp_path, job.Job, False, (callback, silent), max_steps=3)
    assert (seen, why) == ([1, 2, 3], None)


def test_an_epoch_schedule_stays_with_lightning(tmp_path: Path) -> None:
    (lean, why), (stock, _) = job.both(tmp_path, job.ByEpoch, True, max_epochs=2)
    assert why == "the schedule does not step after each optimizer step"
    assert lean == stock


def test_on_ranks(tmp_path: Path) -> None:
    """Two gloo ranks, in windows of 3 with a last one of 1; 36 batches: ranks are asked before the 1st and 33rd."""
    path = Path(job.__file__)
    code = f"import sys, runpy; sys.argv[1:] = [{str(tmp_path)!r}]; runpy.run_path({str(path)!r}, run_name='__main__')"
    for output in on_ranks(2, code):
        for line in output.splitlines()[-2:]:
            found = json.loads(line)
            assert found.pop("calls") > 36 * len(job.BOTH)
            assert found == {"first_other": None, "equal": True, "why": [None, ASKED], "asked": 2}


class Terminated(Callback):
    def on_train_batch_end(self, trainer: Trainer, *rest: Any) -> None:
        if trainer.global_step == 3:
            os.kill(os.getpid(), signal.SIGTERM)


@pytest.mark.parametrize("switch", ["lean", "stock"])
def test_sigterm_ends_the_run_after_the_step(tmp_path: Path, switch: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TFPL_LOOP", switch)
    before = signal.getsignal(signal.SIGTERM)
    with pytest.raises(SIGTERMException):
        job.fit(tmp_path, job.Job, False, (Terminated(),), max_steps=8)
    signal.signal(signal.SIGTERM, before)
    assert sorted(path.name for path in (tmp_path / "checkpoints").iterdir())[-1] == "step-00000002"


class Manual(tiny.Plain):
    automatic_optimization = False

    def training_step(self, batch: Any, batch_idx: int) -> None:
        self.optimizers().zero_grad()
        self.manual_backward(super().training_step(batch, batch_idx))
        self.optimizers().step()


class Fetches(tiny.Plain):
    def training_step(self, dataloader_iter: Any) -> torch.Tensor:
        batch, index, _ = next(dataloader_iter)
        return super().training_step(batch, index)


class Second(tiny.Plain):
    def configure_optimizers(self) -> Any:
        return torch.optim.LBFGS(self.parameters(), lr=0.1, max_iter=2)


class Plateau(tiny.Plain):
    def configure_optimizers(self) -> Any:
        optimizer = torch.optim.SGD(self.parameters(), lr=0.1)
        schedule = torch.optim.lr_scheduler.ReduceLROnPlateau(optimizer)
        config = {"scheduler": schedule, "monitor": "loss", "strict": False}
        return {"optimizer": optimizer, "lr_scheduler": config}


class Endless(torch.utils.data.IterableDataset[Any]):
    def __iter__(self) -> Any:
        yield from iter(tiny.samples(40))


def reason(module: LightningModule, data: Any = None, precision: Any = None, **more: Any) -> str | None:
    plugins = [cluster_environment(), *([OrderedPrecision()] if precision is None else precision)]
    trainer = Trainer(
        accelerator="cpu", max_steps=2, logger=False, enable_checkpointing=False, enable_progress_bar=False,
        enable_model_summary=False, plugins=plugins, **more,
    )  # fmt: skip
    loader = torch.utils.data.DataLoader(tiny.samples(8), 4) if data is None else data
    exact_loop(trainer).fit(module, loader)
    assert trainer.global_step == 2
    return trainer.fit_loop.epoch_loop.why_stock  # type: ignore[attr-defined,no-any-return]


def test_what_is_not_ordinary_says_why() -> None:
    assert reason(tiny.Plain()) is None
    assert reason(Manual()) == "the module optimizes by itself"
    assert reason(Second()) == "LBFGS calls its closure more than once"
    assert reason(tiny.Plain(), profiler="simple") == "a profiler listens"
    assert reason(tiny.Plain(), precision=[]) == "the precision plugin is Precision"
    assert reason(Fetches()) == "the training step takes an iterator"
    assert reason(Plateau()) == "the schedule does not step after each optimizer step"
    assert reason(tiny.Plain(), torch.utils.data.DataLoader(Endless(), 4)) == "the training data has no length"


def test_lightning_is_the_one_that_the_lean_loop_was_written_after() -> None:
    names = changed()
    assert not names, (
        f"Lightning changed {', '.join(names)}: runs now train in Lightning's own loop. Read what changed, follow it "
        "in lean_step.py, lean_optimization.py and step_hooks.py until this file's other tests pass, then put what "
        "`python -m trustformers_pl.lightning_guard` prints into its table SOURCES"
    )


def test_a_lightning_that_someone_patched_is_used_with_one_notice(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    stock, batches = _TrainingEpochLoop.advance, []

    def watched(self: Any, data_fetcher: Any) -> None:
        batches.append(self.global_step)
        stock(self, data_fetcher)

    monkeypatch.setattr(_TrainingEpochLoop, "advance", watched)
    with caplog.at_level(logging.WARNING, "trustformers_pl.lightning_guard"):
        assert [reason(tiny.Plain()), reason(tiny.Plain())] == ["Lightning's _TrainingEpochLoop.advance changed"] * 2
    assert batches == [0, 1, 0, 1]
    assert [record.message for record in caplog.records if "trustformers_pl" in record.name] == [
        "Lightning's _TrainingEpochLoop.advance changed: training runs in Lightning's own loop, a few per cent slower, "
        "with the same results"
    ]


def test_the_switch_is_no_value_of_a_recipe() -> None:
    assert environment_sections({"TFPL_LOOP": "stock"}) == {}
