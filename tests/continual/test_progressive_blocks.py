"""A transformer whose list of blocks is a progressive network: its blocks called one after another by the model."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from trustformers_pl.continual import IntoColumns, ProgressiveBlocks
from trustformers_pl.continual.column_growth import add_column
from trustformers_pl.errors import RefusedError
from trustformers_pl.models import GPT, EncoderClassifier
from trustformers_pl.phases import ModulePhase, PhaseContext


def grown(model: Any, **options: Any) -> Any:
    """With three columns, and laterals that are not zero."""
    torch.manual_seed(0)
    IntoColumns("blocks", **options)(model, PhaseContext(ModulePhase.SURGERY, None, 0))
    ids = torch.randint(0, 20, (2, 6))
    model({"input_ids": ids})
    for _ in range(2):
        add_column(model, "blocks")
        with torch.no_grad():
            for lateral in model.blocks.columns[-1].laterals:
                for parameter in lateral.parameters():
                    nn.init.normal_(parameter, std=0.1)
    return model.eval()


def gpt() -> GPT:
    return GPT(vocab_size=20, d_model=16, n_layers=3, n_heads=2, context_length=12)


def by_hand(model: GPT, ids: Tensor) -> Tensor:
    """Equation 2 over the blocks, block by block."""
    rotation, h = model.rotation[:, : ids.shape[1]], []
    for k, column in enumerate(model.blocks.columns):
        own = [model.embedding(ids)]
        for i, block in enumerate(column.body):
            z = block(own[-1], rotation)
            if i and k:
                z = z + sum(h[j][i] @ column.laterals[i - 1].u[j].weight.T for j in range(k))
            own.append(z)
        h.append(own)
    return model.norm(h[-1][-1]) @ model.embedding.weight.T


def test_blocks_are_the_equation() -> None:
    model, ids = grown(gpt()), torch.randint(0, 20, (2, 6))
    torch.testing.assert_close(model({"input_ids": ids}), by_hand(model, ids))
    other = copy.deepcopy(model)
    assert torch.equal(other({"input_ids": ids}), model({"input_ids": ids}))
    model({"input_ids": ids}).sum().backward()
    graded = {name.split(".")[2] for name, p in model.blocks.named_parameters(prefix="blocks") if p.grad is not None}
    assert graded == {"2"}
    assert len(model.blocks) == 3
    assert model.blocks[0].attention is model.blocks.columns[-1].body[0].attention


def test_generation_keeps_a_cache_for_each_column() -> None:
    """Against the same tokens without any cache."""
    model, ids = grown(gpt()), torch.randint(0, 20, (2, 4))
    found = model.generate(ids, max_new_tokens=12, temperature=0)  # more than the context has
    expected = ids
    start = 0
    for _ in range(12):
        if expected.shape[1] - start > 12:
            start = expected.shape[1] - 6
        expected = torch.cat([expected, model({"input_ids": expected[:, start:]})[:, -1].argmax(-1, keepdim=True)], 1)
    assert torch.equal(found, expected)


def test_new_blocks_are_drawn_as_the_models_own() -> None:
    """0.02, and 0.02 / sqrt(2 x 3) where the residual stream is written to (GPT's docstring)."""
    model = grown(GPT(vocab_size=20, d_model=128, n_layers=3, n_heads=2, context_length=12))
    block = model.blocks.columns[2].body[1]
    assert block.attention.qkv.weight.std().item() == pytest.approx(0.02, rel=0.03)
    assert block.mlp.down.weight.std().item() == pytest.approx(0.02 / 6**0.5, rel=0.03)
    assert not torch.equal(block.attention.qkv.weight, model.blocks.columns[1].body[1].attention.qkv.weight)


def test_an_encoder_and_adapters() -> None:
    model = grown(
        EncoderClassifier(vocab_size=20, d_model=16, n_layers=2, n_heads=2, context_length=12, n_classes=3),
        lateral="adapter",
        hidden=4,
    )
    batch = {"input_ids": torch.randint(0, 20, (2, 6))}
    assert model(batch).shape == (2, 3)
    assert model.blocks.columns[2].laterals[0].v.weight.shape == (4, 32)
    model.blocks.task = 0
    first = model(batch)
    with torch.no_grad():
        for parameter in model.blocks.columns[1:].parameters():
            parameter.zero_()
    assert torch.equal(model(batch), first)


def test_what_a_list_of_blocks_does_not_know_is_refused() -> None:
    blocks = ProgressiveBlocks(nn.ModuleList([nn.Linear(2, 2), nn.Linear(2, 2)]))
    with pytest.raises(RefusedError, match="called from the first one on"):
        blocks[1](torch.zeros(1, 2))

    class Cache:
        def get_seq_length(self) -> int:
            return 0

    with pytest.raises(RefusedError, match="is not one a column"):
        blocks[0](torch.zeros(1, 2), Cache())
