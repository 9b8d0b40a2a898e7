"""What a rank does with a deferred module: shards it, fills its part, and says what it has."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path
from typing import Any

import tiny_deferred as blocks
import torch
from torch import nn
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor, Replicate, Shard, distribute_tensor
from torch.distributed.tensor.parallel import ColwiseParallel, RowwiseParallel, parallelize_module

from trustformers_pl.deferred import build_deferred, fill, note_values
from trustformers_pl.models import GPT

SIZES = {"vocab_size": 31, "d_model": 20, "n_layers": 2, "n_heads": 2, "context_length": 8}


def make(kind: str) -> nn.Module:
    torch.manual_seed(5)
    if kind == "gpt":
        return GPT(**SIZES)  # type: ignore[arg-type]
    if kind == "transformer":
        return nn.Transformer(12, 2, 1, 1, 18, batch_first=True)
    if kind == "mlp":
        return nn.Sequential(nn.Linear(12, 20), nn.ReLU(), nn.Linear(20, 6))
    import transformers as hf

    sizes = {"hidden_size": 20, "intermediate_size": 24, "num_hidden_layers": 2, "num_attention_heads": 2}
    return hf.LlamaForCausalLM(hf.LlamaConfig(vocab_size=65, tie_word_embeddings=True, **sizes))


def shard(module: nn.Module, mesh: DeviceMesh) -> None:
    for inner in module.modules():
        if type(inner).__name__ in ("Block", "TransformerEncoderLayer", "TransformerDecoderLayer", "LlamaDecoderLayer"):
            fully_shard(inner, mesh=mesh)
    fully_shard(module, mesh=mesh)


def mesh_of(*sizes: int) -> DeviceMesh:
    os.environ.setdefault("RANK", "0")  # what a single rank is not told
    os.environ.setdefault("WORLD_SIZE", "1")
    os.environ.setdefault("MASTER_ADDR", "127.0.0.1")
    if "MASTER_PORT" not in os.environ:
        torch.distributed.init_process_group("gloo", store=torch.distributed.HashStore(), rank=0, world_size=1)
    return init_device_mesh("cpu", sizes, mesh_dim_names=("data", "tensor")[: len(sizes)])


def gathered(module: nn.Module) -> dict[str, torch.Tensor]:
    tensors = blocks.named(module).items()
    return {name: tensor.full_tensor() if isinstance(tensor, DTensor) else tensor for name, tensor in tensors}


def differences(kind: str, ranks: int) -> tuple[list[str], str, bool]:
    """Names whose gathered value is not torch's own; the digest of all; whether a forward pass is the ordinary one's."""
    mesh = mesh_of(ranks)
    ordinary, module = make(kind), build_deferred(lambda: make(kind))
    shard(module, mesh)
    note_values(module)
    module.to_empty(device="cpu")
    fill(module)
    assert all(isinstance(parameter, DTensor) for parameter in module.parameters())
    found = gathered(module)
    digest = hashlib.sha256(b"".join(map(blocks.bits, found.values()))).hexdigest()
    return blocks.differing(found, blocks.named(ordinary)), digest, same_outputs(kind, module, ordinary)


def same_outputs(kind: str, module: Any, ordinary: Any) -> bool:
    inputs: Any = torch.randint(31, (2, 8), generator=torch.Generator().manual_seed(0))
    if kind == "gpt":
        return torch.equal(module({"input_ids": inputs}), ordinary({"input_ids": inputs}))
    if kind == "llama":
        return torch.equal(module(inputs).logits, ordinary(inputs).logits)
    values = torch.rand(2, 5, 12)
    module.eval(), ordinary.eval()
    return torch.equal(module(values, values), ordinary(values, values))


def in_two_dimensions() -> list[str]:
    """Tensor parallel and FSDP2 split the same dimension: strided shards. The reference is torch's own distribution."""
    mesh = mesh_of(2, 2)
    ordinary, module = make("mlp"), build_deferred(lambda: make("mlp"))
    for one in (ordinary, module):
        parallelize_module(one, mesh["tensor"], {"0": ColwiseParallel(), "2": RowwiseParallel()})
        fully_shard(one, mesh=mesh["data"])
    note_values(module)
    module.to_empty(device="cpu")
    fill(module)
    found = {name: tensor.to_local() for name, tensor in blocks.named(module).items()}
    return blocks.differing(found, {name: tensor.to_local() for name, tensor in blocks.named(ordinary).items()})


def by_hand() -> list[str]:
    """Any placements, given by hand: replicated, by rows, by columns, unevenly."""
    mesh = mesh_of(2, 2)
    wrong = []
    for placements in ([Replicate(), Shard(0)], [Shard(1), Replicate()], [Shard(1), Shard(0)], [Shard(0), Shard(0)]):
        torch.manual_seed(5)
        ordinary = nn.Linear(3, 5).weight
        torch.manual_seed(5)
        module = build_deferred(lambda: nn.Linear(3, 5))
        expected = distribute_tensor(ordinary.detach(), mesh, placements, src_data_rank=None)
        module.weight = nn.Parameter(torch.zeros_like(expected))
        fill(module)
        local = module.weight.to_local()
        wrong += [] if torch.equal(local, expected.to_local()) else [f"{placements}: {local}"]
    return wrong


def slices_of(folder: str, kind: str) -> tuple[list[str], int, int]:
    """Names whose shard is not the slice of what `from_pretrained` reads; bytes that were read; bytes of all shards."""
    from trustformers_pl.models import HFCausalLM, HFSequenceClassifier

    os.chdir(Path(folder).parent)
    mesh = mesh_of(2)

    def build() -> Any:
        torch.manual_seed(7)
        if kind == "classifier":
            return HFSequenceClassifier(path=folder, num_labels=3)
        return HFCausalLM(path=folder)

    ordinary, module = build(), build_deferred(build)
    ordinary.read_weights()
    shard(module, mesh)
    note_values(module)
    module.to_empty(device="cpu")
    fill(module)
    expected = blocks.named(ordinary)
    found, slices = {}, {}
    for name, tensor in blocks.named(module).items():
        found[name] = tensor.to_local() if isinstance(tensor, DTensor) else tensor
        whole = expected[name].detach()
        slices[name] = (
            distribute_tensor(whole, mesh, tensor.placements, src_data_rank=None).to_local()
            if isinstance(tensor, DTensor)
            else whole
        )
    held = sum(parameter.to_local().nbytes for parameter in module.parameters())
    read = 0 if module.files is None else module.files.bytes_read
    return blocks.differing(found, slices), read, held
