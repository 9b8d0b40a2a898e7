"""Sharded runs resume: bit for bit on the same ranks, on other numbers of ranks and in other modes to rounding."""

from __future__ import annotations

import csv
import json
import shutil
from typing import TYPE_CHECKING, Any

import pytest
from resume_job import CUT, STEPS, content, distance, fit

from trustformers_pl.checkpoint import consolidate, verify
from trustformers_pl.testing import Ranks

if TYPE_CHECKING:
    from pathlib import Path

DDP: dict[str, Any] = {"ddp": {}}
ZERO: dict[int, dict[str, Any]] = {stage: {"zero": {"stage": stage}} for stage in (1, 2, 3)}
COPIES: dict[str, Any] = {"ddp": {"replicas": 2}, "zero": {"stage": 3}}
# Dropout draws otherwise on another number of ranks.
CALM = {
    "model": {
        "class_path": "trustformers_pl.models.GPT",
        "init_args": {"d_model": 12, "n_layers": 2, "n_heads": 2, "context_length": 8},
    }
}
pool = Ranks()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "text").mkdir()
    (tmp_path / "text/a.txt").write_text("the quick brown fox jumps over the lazy dog. " * 60)
    return tmp_path


def cut(folder: Path) -> None:
    """As if the run had been killed just after a checkpoint."""
    for path in (folder / "run/checkpoints").iterdir():
        if int(path.name.removeprefix("step-")) > CUT:
            shutil.rmtree(path)


def logged(folder: Path) -> dict[tuple[int, str], float]:
    """The numbers of the table, by step and name."""
    with (folder / "run/metrics.csv").open() as file:
        rows = list(csv.DictReader(file))
    return {(int(row["step"]), name): float(text) for row in rows for name, text in row.items() if text}


def files(folder: Path) -> dict[str, bytes]:
    found = {file.name: file.read_bytes() for file in (folder / f"run/checkpoints/step-{STEPS:08}").iterdir()}
    return {**found, "metrics.csv": (folder / "run/metrics.csv").read_bytes()}


@pytest.mark.parametrize(
    ("mode", "ranks", "more"),
    [
        (ZERO[1], 2, {}),
        (ZERO[2], 2, {"precision": {"dtype": "fp16"}}),
        (ZERO[3], 2, {}),
        (ZERO[2], 4, {}),
        (ZERO[3], 4, {"precision": {"dtype": "bf16", "opt_level": "O2"}}),
        (COPIES, 4, {}),
        ({"zero": {"stage": 2, "offload_optimizer": True}}, 2, {}),
        ({"zero": {"stage": 3, "offload_optimizer": True}}, 2, {}),
    ],
    ids=lambda value: json.dumps(value) if isinstance(value, dict) else str(value),
)
def test_same_ranks_resume_bit_for_bit(folder: Path, mode: dict[str, Any], ranks: int, more: dict[str, Any]) -> None:
    """What is expected is the run that was not cut."""
    pool.run(ranks, fit, str(folder), mode, ranks, more)
    expected = files(folder)
    cut(folder)
    pool.run(ranks, fit, str(folder), mode, ranks, more)
    found = files(folder)
    assert found.keys() == expected.keys()
    assert [name for name in found if found[name] != expected[name]] == []


@pytest.mark.parametrize(
    ("first", "then"),
    [
        ((ZERO[3], 2), (ZERO[3], 4)),
        ((ZERO[3], 4), (ZERO[3], 1)),
        ((ZERO[3], 2), (DDP, 2)),
        ((DDP, 2), (ZERO[3], 2)),
        ((ZERO[1], 4), (ZERO[2], 2)),
        ((ZERO[2], 2), ({}, 1)),
        (({}, 1), (ZERO[2], 4)),
        ((COPIES, 4), (ZERO[1], 2)),
    ],
    ids=lambda value: json.dumps(value) if isinstance(value, tuple) else str(value),
)
def test_another_number_of_ranks_or_mode_goes_on(
    folder: Path, first: tuple[dict[str, Any], int], then: tuple[dict[str, Any], int]
) -> None:
    """What is expected is one process that was not cut; weights, averages and moments to rounding."""
    other = folder.parent / f"{folder.name}-one"
    shutil.copytree(folder, other)
    pool.run(1, fit, str(other), {}, 1, CALM)
    pool.run(first[1], fit, str(folder), *first, CALM)
    cut(folder)
    pool.run(then[1], fit, str(folder), *then, CALM, "force")  # it is another recipe
    assert distance(content(folder, STEPS), content(other, STEPS)) < 1e-5
    assert logged(folder) == pytest.approx(logged(other), rel=1e-5)  # of all ranks' data, also the training loss


def test_each_rank_writes_its_part_and_all_of_it_is_read_by_others(folder: Path) -> None:
    from safetensors.torch import load_file

    pool.run(2, fit, str(folder), ZERO[3], 2)
    last = folder / f"run/checkpoints/step-{STEPS:08}"
    sizes = [file.stat().st_size for file in sorted(last.glob("tensors*.safetensors"))]
    assert len(sizes) == 2
    assert max(sizes) < 1.5 * min(sizes)  # the first has what belongs to nobody else, such as random generators
    verify(last)
    consolidate(last, folder / "whole")
    weights = load_file(folder / "whole/model.safetensors")
    expected = content(folder, STEPS)
    assert all(tensor.flatten().tolist() == expected[name] for name, tensor in weights.items())
    moments = load_file(folder / "whole/optimizer.safetensors")
    assert {name.rpartition(".")[2] for name in moments} >= {"exp_avg", "exp_avg_sq"}
    assert moments["embedding.weight.exp_avg"].shape == weights["embedding.weight"].shape
