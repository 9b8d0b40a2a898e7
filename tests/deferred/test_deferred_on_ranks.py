"""Deferred modules that FSDP2 shards over real ranks: gathered, they have the bits of torch's own construction."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import deferred_shards
import pytest

from trustformers_pl.testing import Ranks

HERE = Path(__file__).parent


@pytest.mark.parametrize("kind", ["gpt", "transformer", "llama"])
def test_any_number_of_ranks_gives_the_same_bits(kind: str) -> None:
    if kind == "llama":
        pytest.importorskip("transformers")
    digests = set()
    for ranks in (1, 2, 4):
        for wrong, digest, same_outputs in Ranks().run(ranks, deferred_shards.differences, kind, ranks):
            assert wrong == []
            assert same_outputs
            digests.add(digest)
    assert len(digests) == 1


def test_shards_of_two_dimensions() -> None:
    assert Ranks().run(4, deferred_shards.in_two_dimensions) == [[]] * 4


def test_other_placements() -> None:
    assert Ranks().run(4, deferred_shards.by_hand) == [[]] * 4


CODE = """
import re, torch
from pathlib import Path
from torch import nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.testing._internal.distributed.fake_pg import FakeStore
from trustformers_pl.deferred import deferred, fill, note_values

torch.distributed.init_process_group("fake", store=FakeStore(), rank=3, world_size=8)
mesh = init_device_mesh("cpu", (8,))

def make(count):
    layers = nn.Sequential(*[nn.Linear(2048, 1024, bias=False) for _ in range(count)])
    for layer in layers:
        {init}
    return layers

def mebibytes(name):
    return int(re.search(name + r":\\s+(\\d+)", Path("/proc/self/status").read_text()).group(1)) / 1024

def run(count):
    Path("/proc/self/clear_refs").write_text("5")  # the peak counts from here
    before = mebibytes("VmRSS")
    with deferred():
        module = make(count)
    for layer in module:
        fully_shard(layer, mesh=mesh)
    fully_shard(module, mesh=mesh)
    note_values(module)
    module.to_empty(device="cpu")
    made = fill(module)
    return mebibytes("VmHWM") - before, made / 2**20, sum(p.to_local().nbytes for p in module.parameters()) / 2**20

run(1)  # what torch imports at the first use
print(*run({count}))
"""


@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="the peak of memory is read from Linux's /proc")
@pytest.mark.parametrize(
    ("init", "count", "at_once"),
    [("nn.init.normal_(layer.weight, std=0.02)", 24, 1), ("nn.init.trunc_normal_(layer.weight)", 12, 5)],
)
def test_a_rank_needs_memory_for_its_shards_and_a_few_tensors(init: str, count: int, at_once: int) -> None:
    # One rank of eight, by torch's fake process group. Matrices of 8 MiB: as many MiB on a rank as there are matrices.
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "MALLOC_MMAP_THRESHOLD_": "1048576"}  # freed is given back
    code = [sys.executable, "-c", CODE.replace("{init}", init).replace("{count}", str(count))]
    done = subprocess.run(code, env=environment, cwd=HERE, capture_output=True, text=True, check=True, timeout=120)
    peak, made, shards = map(float, done.stdout.split())
    assert shards == count
    assert made <= 8 * at_once
    assert peak < shards + 8 * at_once + 8 + 8  # what is drawn while it is recorded, and the interpreter's own
