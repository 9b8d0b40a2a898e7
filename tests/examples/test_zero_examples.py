"""The ZeRO examples on two real ranks: by the command, with a resume, and in a stock Trainer."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from shown import ROOT

EXAMPLES = ROOT / "examples" / "parallel"
SMALL = ["model.init_args.d_model=16", "model.init_args.n_layers=2", "data.init_args.batch_size=4"]
SMALL += [
    "trainer.max_steps=6",
    "trainer.val_check_interval=3",
    "trainer.limit_val_batches=2",
    "checkpoint.every_n_steps=2",
]
SMALL += [
    "samples.max_new_tokens=5",
    "schedule.warmup_steps=2",
    "checkpoint.keep_last=9",
    "trainer.log_every_n_steps=1",
]


def python(*arguments: str) -> str:
    """What it prints.

    Raises:
        AssertionError: It failed; its errors are the message.
    """
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    command = [sys.executable, *arguments]
    done = subprocess.run(command, capture_output=True, text=True, env=environment, check=False, timeout=240)
    assert done.returncode == 0, done.stderr
    return done.stdout


def fit() -> str:
    return python("-m", "trustformers_pl.cli", "fit", str(EXAMPLES / "zero.yaml"), *(f"--{value}" for value in SMALL))


def columns(folder: Path, *names: str) -> list[list[str]]:
    rows = [line.split(",") for line in (folder / "metrics.csv").read_text(encoding="utf-8").splitlines()]
    return [[row[rows[0].index(name)] for row in rows[1:]] for name in names]


def test_the_main_job_on_two_ranks_goes_on_where_it_ended() -> None:
    assert "run folder: runs/zero" in fit()
    folder = Path("runs/zero")
    last = folder / "checkpoints" / "step-00000006"
    expected = {str(file.relative_to(last)): file.read_bytes() for file in last.rglob("*") if file.is_file()}
    logged = columns(folder, "step", "train_loss", "grad_norm")
    losses = [float(loss) for loss in logged[1] if loss]
    assert losses[-1] < losses[0]
    shutil.rmtree(last)
    fit()
    assert {str(file.relative_to(last)): file.read_bytes() for file in last.rglob("*") if file.is_file()} == expected
    assert columns(folder, "step", "train_loss", "grad_norm") == logged


@pytest.mark.parametrize("devices", [1, 2])
def test_a_stock_trainer_by_name(devices: int) -> None:
    """The weights: 256 x 32 + 3 blocks of 8544 + 256 x 33; each of them can be halved evenly."""
    said = python(str(EXAMPLES / "stock_zero.py"), str(devices), "20").splitlines()[-1]
    whole = 256 * 32 + 3 * 8544 + 256 * 33
    assert said.startswith("20 steps, loss ")
    assert said.endswith(f"; rank 0 holds {whole // devices} of {whole} weights")
    assert float(said.split("loss ")[1].split(";")[0]) < 4.9  # of 256 bytes at random 5.55
