"""Gradients that are added up over ranks in another type than their own: torch's sum of the rounded gradients."""

from __future__ import annotations

import pytest
import torch
import torch.distributed as dist
from equality import pool
from torch import nn

from trustformers_pl.parallel import ZeROConfig, ZeroOptimizer

RANKS = 2
TYPES = {"bf16": torch.bfloat16, "fp16": torch.float16, "fp32": torch.float32}


def gradients_of(model: nn.Module, rank: int) -> None:
    x = torch.randn(8, 6, generator=torch.Generator().manual_seed(rank))
    (model(x) ** 2).mean().backward()


def made() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(6, 10), nn.Tanh(), nn.Linear(10, 4))


def on_ranks(stage: int, dtype: str) -> list[list[float]]:
    dist.init_process_group("gloo")
    model = made()
    optimizer = ZeroOptimizer(torch.optim.SGD(model.parameters(), lr=0.1), model, ZeROConfig(stage=stage, reduce_dtype=dtype))  # type: ignore[arg-type]  # fmt: skip
    gradients_of(model, dist.get_rank())
    optimizer.clip_grad_norm_(1e9)  # ends the backward pass, and scales nothing
    found = [p.grad.full_tensor().flatten().tolist() for group in optimizer.param_groups for p in group["params"]]
    dist.destroy_process_group()
    return found


def by_torch(dtype: torch.dtype) -> list[list[float]]:
    """Two roundings at most: of what each rank sends, and of their sum. To halve is exact."""
    sums: list[torch.Tensor] = []
    for rank in range(RANKS):
        model = made()
        gradients_of(model, rank)
        sent = [p.grad.to(dtype) for p in model.parameters() if p.grad is not None]
        sums = [one + other for one, other in zip(sums, sent, strict=True)] if sums else sent
    return [(one / RANKS).float().flatten().tolist() for one in sums]


@pytest.mark.parametrize("stage", [1, 2, 3])
def test_the_sum_is_that_of_the_type(stage: int) -> None:
    for name, dtype in TYPES.items():
        expected = by_torch(dtype)
        for found in pool.run(RANKS, on_ranks, stage, name):
            assert found == expected, name


def test_the_types_differ_at_all() -> None:
    assert len({str(by_torch(dtype)) for dtype in TYPES.values()}) == len(TYPES)
