"""The example's noise on sharded gradients: the shards of the noise that one process would add."""

from __future__ import annotations

from pathlib import Path

from ranks import on_ranks

EXAMPLE = Path(__file__).parents[2] / "plugins" / "trustformers-pl-example"
CODE = """
import sys
sys.path.insert(0, {path!r})
import torch
from torch.distributed import init_process_group
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from trustformers_pl_example.noise import add_noise_

def noisy(shards):
    torch.manual_seed(0)
    layer = torch.nn.Linear(3, 5, dtype=torch.float64)  # 5 rows: the ranks get unequal shards
    if shards:
        fully_shard(layer, mesh=init_device_mesh("cpu", (2,)))
    layer(torch.ones(2, 3, dtype=torch.float64)).sum().backward()
    add_noise_(layer.parameters(), 0.5, seed=3, step=4)
    gradients = [p.grad for p in layer.parameters()]
    return [g.full_tensor() if shards else g for g in gradients]

init_process_group("gloo")
print([bool(torch.equal(a, b)) for a, b in zip(noisy(True), noisy(False), strict=True)])
"""


def test_shards_get_the_noise_of_one_process() -> None:
    """Expected: the gradients of the same layer in one process, unsharded, bit for bit."""
    for printed in on_ranks(2, CODE.format(path=str(EXAMPLE))):
        assert printed.splitlines()[-1] == "[True, True]"
