"""The Fisher information of a sharded model, on real ranks, against that of the whole model on all samples."""

from __future__ import annotations

from ranks import on_ranks

CODE = """
import copy

import torch
from torch import distributed, nn
from torch.distributed.fsdp import fully_shard

from trustformers_pl.continual.likelihood import empirical
from trustformers_pl.continual.per_sample import PerSample
from trustformers_pl.models import GPT

distributed.init_process_group("gloo")
rank = distributed.get_rank()
torch.manual_seed(0)
module = GPT(vocab_size=11, d_model=8, n_layers=2, n_heads=2, context_length=6).double()
module.blocks[0].odd = nn.Bilinear(8, 8, 8).double()  # has no rule
module.blocks[0].register_forward_hook(lambda block, _, output: output + block.odd(output, output))
whole = copy.deepcopy(module)
for block in module.blocks:
    fully_shard(block)
fully_shard(module)
batch = {name: torch.randint(0, 11, (4, 6)) for name in ("input_ids", "labels")}
found, wanted = (PerSample(one, empirical(lambda b: b["labels"]), torch.square) for one in (module, whole))
for _ in range(2):
    found.add({name: value[rank::2] for name, value in batch.items()})
    wanted.add(batch)
assert found.slow == wanted.slow == {f"blocks.0.odd.{name}" for name, _ in whole.blocks[0].odd.named_parameters()}
for name, total in found.totals.items():
    distributed.all_reduce(total)
    torch.testing.assert_close(total, wanted.totals[name], rtol=1e-10, atol=1e-25)
module(batch).sum().backward()
print(found.samples, all(p.grad is not None for p in module.parameters()))
distributed.destroy_process_group()
"""


def test_sharded_parameters_have_the_sums_of_the_whole_model() -> None:
    assert on_ranks(2, CODE) == ["4 True\n"] * 2
