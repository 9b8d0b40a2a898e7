"""The mesh strategy: sizes, launching, and what it refuses before any process group starts."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from trustformers_pl.errors import RefusedError
from trustformers_pl.factory import assemble
from trustformers_pl.mesh_strategy import Dimension, mesh_sizes

TESTS = Path(__file__).parent.parent


@pytest.mark.parametrize(
    ("dimensions", "ranks", "expected"),
    [
        ([], 4, {"data_parallel": 4}),
        ([Dimension("data_parallel")], 4, {"data_parallel": 4}),
        ([Dimension("data_parallel"), Dimension("tensor", 2)], 8, {"data_parallel": 4, "tensor": 2}),
        ([Dimension("pipeline", 2), Dimension("tensor", 2)], 4, {"pipeline": 2, "tensor": 2}),
    ],
)
def test_sizes_multiply_to_the_ranks(dimensions: list[Dimension], ranks: int, expected: dict[str, int]) -> None:
    assert mesh_sizes(dimensions, ranks) == expected


@pytest.mark.parametrize(
    ("dimensions", "said"),
    [
        (
            [Dimension("data_parallel"), Dimension("tensor", 3)],
            "data_parallel=the rest, tensor=3 do not make up 4 ranks",
        ),
        ([Dimension("tensor", 2)], "tensor=2 do not make up 4 ranks; change a size, or the number of devices"),
        ([Dimension("a"), Dimension("b")], "dimensions a, b: give each its own name, and a size to all but one"),
        ([Dimension("a", 2), Dimension("a", 2)], "dimensions a, a: give each its own name"),
    ],
)
def test_sizes_that_do_not_fit_are_refused(dimensions: list[Dimension], said: str) -> None:
    with pytest.raises(RefusedError, match=said):
        mesh_sizes(dimensions, 4)


DIMENSION = """
    from trustformers_pl import Plugin, hookimpl, part
    class Rows(Plugin):
        "Two ranks that see the same data."
        @hookimpl
        def mesh(self, plan):
            return [part("trustformers_pl.parallel:Dimension", "rows", 3)]
"""


def test_a_mesh_that_does_not_fit_starts_no_process_group(write: Any, install: Any) -> None:
    install("rows-pack", DIMENSION, trustformers_pl={"rows": "Rows"})
    run = assemble(write(more="ddp: {}\nrows: {}\n"), ["trainer.devices=1"])
    with pytest.raises(RefusedError, match="mesh: data_parallel=the rest, rows=3 do not make up 1 ranks"):
        run.fit()
    assert not torch.distributed.is_initialized()


def fit(recipe: str, *overrides: str) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "PYTHONPATH": str(TESTS), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "trustformers_pl.cli", "fit", recipe, *overrides]
    return subprocess.run(command, capture_output=True, text=True, env=environment, check=False, timeout=120)


def test_two_ranks_from_the_command_and_spawned_give_the_same_bits(write: Any) -> None:
    """`ddp` launches its ranks by itself; Lightning's own `ddp_spawn` pickles the composed module to its ranks."""
    recipe = write(more="checkpoint: {}\nprogress: {}\ncsv: {}\n")
    launched = fit(recipe, "--ddp={}", "--trainer.devices=2", "--trainer.default_root_dir=launched")
    assert launched.returncode == 0, launched.stderr
    assert launched.stdout.endswith("run folder: launched\n")
    assert launched.stdout.count("run folder") == 1  # rank zero alone speaks
    spawned = fit(recipe, "--trainer.strategy=ddp_spawn", "--trainer.devices=2", "--trainer.default_root_dir=spawned")
    assert spawned.returncode == 0, spawned.stderr
    name = "checkpoints/step-00000006/tensors.safetensors"
    assert Path("launched", name).read_bytes() == Path("spawned", name).read_bytes()
