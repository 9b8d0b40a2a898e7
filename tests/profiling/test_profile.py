"""What `profile` measures, against counts by hand; training itself does not change."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning import Trainer
from lightning.pytorch.plugins.environments import LightningEnvironment
from tiny import Data, Plain

from trustformers_pl.factory import assemble
from trustformers_pl.profiling import Profile, measured_peak, peak_flops
from trustformers_pl.testing.sections import beside

LOGGED = {"metrics": {"tokens_per_second": False}, "csv": {}}


def fitted(*sections: dict[str, Any], folder: str) -> Any:
    run = assemble(beside(LOGGED, *sections, {"trainer": {"default_root_dir": folder}}))
    run.fit()
    return run


def test_operations_are_those_counted_by_hand_and_training_is_not_disturbed() -> None:
    """Three times the forward pass: 2 operations a weight of each matrix and token, and attention's two products.

    The tiny GPT: width 8, 8 positions, vocabulary 256, batches of 4 windows. Attention: T x T x 8 twice, per window.
    """
    run = fitted({"profile": {"start_step": 2, "steps": 2, "peak_tflops": 1.0}}, folder="a")
    (profile,) = run.callbacks("Profile")
    batch = next(iter(run.trainer.train_dataloader))["input_ids"]
    windows, positions = batch.shape
    matrices = sum(p.numel() for n, p in run.module.named_parameters() if p.ndim == 2)  # the embedding is the head, too
    attention = 2 * 2 * positions * positions * 8
    assert profile.flops == 3 * windows * (2 * positions * matrices + attention)
    plain = fitted(folder="b")
    for name, value in plain.module.state_dict().items():
        assert torch.equal(value, run.module.state_dict()[name])
    mfu = float(run.trainer.callback_metrics["mfu"])
    assert 0 < mfu < 1


def test_a_step_of_several_batches_is_logged_once() -> None:
    run = fitted({"profile": {"start_step": 1, "steps": 1}, "accumulate": {"batches": 2}}, folder="a")
    rows = [line.split(",") for line in (run.folder / "metrics.csv").read_text().splitlines()]
    column = rows[0].index("mfu")
    steps = [int(row[0]) for row in rows[1:] if row[column]]
    assert steps == sorted(set(steps))
    assert len(steps) >= 5


def test_operators_and_a_trace_are_written_and_reported() -> None:
    run = fitted({"profile": {"start_step": 1, "steps": 3}}, folder="a")
    rows = json.loads(Path("a/profile/operators.json").read_text())
    assert sum(row["share"] for row in rows) == pytest.approx(1.0, abs=1e-3)
    assert [row["microseconds"] for row in rows] == sorted((row["microseconds"] for row in rows), reverse=True)
    calls = {row["name"]: row["calls"] for row in rows}
    assert calls["aten::embedding"] == 3  # one a step: nothing is recorded before or after
    trace = json.loads(Path("a/profile/trace.json").read_text())
    assert any("scaled_dot_product" in str(event.get("name")) for event in trace["traceEvents"])
    report = (run.folder / "report.md").read_text()
    assert "## Where the time goes" in report
    assert "Model FLOPs utilisation" in report


def test_it_works_in_a_stock_trainer_with_a_module_that_is_not_composable(tmp_path: Path) -> None:
    profile = Profile(start_step=1, steps=1)
    plugins: list[Any] = [LightningEnvironment()]
    trainer = Trainer(
        accelerator="cpu", max_steps=2, plugins=plugins, callbacks=[profile], logger=False, default_root_dir=tmp_path,
        enable_checkpointing=False, enable_progress_bar=False, enable_model_summary=False,
    )  # fmt: skip
    trainer.fit(Plain(), datamodule=Data())
    assert profile.flops is None
    assert json.loads((tmp_path / "profile/operators.json").read_text())


def test_a_run_that_ends_early_writes_what_it_has() -> None:
    fitted({"profile": {"start_step": 6, "steps": 50}}, folder="a")
    assert json.loads(Path("a/profile/operators.json").read_text())


def test_the_peak_of_this_cpu_is_measured() -> None:
    """A product of two 1,024 x 1,024 matrices takes between a microsecond and ten seconds on any machine."""
    found, source = peak_flops(torch.device("cpu"), torch.float32)
    assert 2 * 1024**3 / 10 < found < 2 * 1024**3 / 1e-6
    assert "measured" in source
    assert measured_peak(torch.device("cpu"), torch.float32) == pytest.approx(found, rel=5)
