"""Readings against what /proc says, and their rows."""

from __future__ import annotations

import csv
import shutil
import subprocess
import sys
import time
from importlib.metadata import PackageNotFoundError
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny import Data, Plain

from trustformers_pl.errors import RefusedError
from trustformers_pl.factory import assemble
from trustformers_pl.tracking import CSVLogger, SystemMetrics
from trustformers_pl.tracking.machine import OF_THE_HOST, Machine


def resident_gib() -> float:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("VmRSS")) / 2**20


def test_a_reading_is_what_the_system_says(tmp_path: Path) -> None:
    machine = Machine(tmp_path, torch.device("cpu"))
    kept, before = bytearray(b"x" * 200_000_000), resident_gib()
    end = time.monotonic() + 0.3
    while time.monotonic() < end:
        pass
    found = machine.read()
    assert found.keys() == set(OF_THE_HOST)
    assert found["system_process_memory_gib"] > 0.9 * before
    assert 20 < found["system_process_cpu_percent"] < 200  # one core was busy; another process may have wanted it
    assert found["system_disk_free_gib"] == pytest.approx(shutil.disk_usage(tmp_path).free / 2**30, rel=0.01)
    assert 0 < found["system_memory_percent"] < 100
    assert kept


def test_children_count(tmp_path: Path) -> None:
    machine = Machine(tmp_path, torch.device("cpu"))
    before = machine.read()["system_process_memory_gib"]
    code = "x = bytearray(b'x' * 300_000_000); print('there', flush=True); input()"
    with subprocess.Popen(
        [sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as child:
        assert child.stdout is not None
        assert child.stdout.readline() == "there\n"
        after = machine.read()["system_process_memory_gib"]
        child.communicate("\n")
    assert after - before > 0.25


def rows(folder: Path) -> list[dict[str, str]]:
    with (folder / "metrics.csv").open(newline="") as file:
        return list(csv.DictReader(file))


@pytest.mark.parametrize(("every_seconds", "readings"), [(0.0, 4), (3600.0, 1)])
def test_each_logged_step_has_a_row_in_a_stock_trainer(
    make_trainer: Any, tmp_path: Path, every_seconds: float, readings: int
) -> None:
    callback = SystemMetrics(every_seconds=every_seconds)
    trainer = make_trainer(callbacks=[callback], logger=CSVLogger(tmp_path), max_steps=8, log_every_n_steps=2)
    trainer.fit(Plain(), datamodule=Data())
    assert [row["step"] for row in rows(tmp_path) if row["system_cpu_percent"]] == ["1", "3", "5", "7"]
    assert callback.readings == readings


def test_accumulated_steps_have_one_row_each(make_trainer: Any, tmp_path: Path) -> None:
    trainer = make_trainer(
        callbacks=[SystemMetrics()],
        logger=CSVLogger(tmp_path),
        max_steps=4,
        log_every_n_steps=1,
        accumulate_grad_batches=2,
    )
    trainer.fit(Plain(), datamodule=Data())
    assert [row["step"] for row in rows(tmp_path)] == ["0", "1", "2", "3"]


def test_without_the_library_it_is_refused_with_the_extra(write: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(name: str) -> None:
        raise PackageNotFoundError(name)

    monkeypatch.setattr("trustformers_pl.extras.distribution", missing)
    with pytest.raises(RefusedError, match=r"psutil is not installed; pip install 'trustformers-pl\[system\]'"):
        assemble(write(more="system: {}\n"))


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")
def test_a_gpu_is_read(tmp_path: Path) -> None:
    kept = torch.ones(2**28, device="cuda")
    found = Machine(tmp_path, torch.device("cuda", 0)).read()
    assert found["system_gpu_memory_gib"] >= 1.0
    assert found["system_gpu_memory_peak_gib"] >= found["system_gpu_memory_gib"]
    assert 0 <= found.get("system_gpu_percent", 0) <= 100
    assert len(kept)
