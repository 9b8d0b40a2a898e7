"""Parameters large enough to be sent where they lie, used by all ranks, by one, or by none."""

from __future__ import annotations

import pytest
import torch
import torch.distributed as dist
from equality import pool
from torch import nn

from trustformers_pl.parallel import ZeROConfig, ZeroOptimizer

STEPS, ROWS = 4, 8


class Parts(nn.Module):
    """Each matrix but `small` is above a mebibyte."""

    def __init__(self) -> None:
        super().__init__()
        self.of_all, self.of_one, self.of_none = (nn.Linear(512, 1024, bias=False) for _ in range(3))
        self.small = nn.Linear(512, 7)

    def forward(self, x: torch.Tensor, *, first: bool) -> torch.Tensor:
        found = (self.of_all(x) ** 2).mean() + (self.small(x) ** 2).mean()
        return found + (self.of_one(x) ** 2).mean() if first else found


def train(stage: int) -> list[float]:
    """The mean over ranks of each rank's loss; by torch alone, in one process, at stage 0."""
    torch.set_num_threads(1)
    torch.manual_seed(0)
    model = Parts()
    optimizer: torch.optim.Optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2, eps=1e-4)
    ranks = [0, 1]
    if stage:
        dist.init_process_group("gloo")
        ranks = [dist.get_rank()]
        optimizer = ZeroOptimizer(optimizer, model, ZeROConfig(stage=stage))  # type: ignore[arg-type]
    for step in range(STEPS):
        for rank in ranks:
            x = torch.randn(ROWS, 512, generator=torch.Generator().manual_seed(10 * step + rank))
            (model(x, first=rank == 0) / (len(ranks))).backward()
        optimizer.step()
        optimizer.zero_grad()
    return torch.stack([parameter.detach().double().norm() for parameter in model.parameters()]).tolist()


@pytest.mark.parametrize("stage", [1, 2])
def test_each_is_trained_as_in_one_process(stage: int) -> None:
    (expected,) = pool.run(1, train, 0)
    first, second = pool.run(2, train, stage)
    assert first == second == pytest.approx(expected, rel=1e-6)
