"""Every optimizer of ours on shards of one rank: the weights of the same run with torch's DDP."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch.distributed.tensor import DTensor

from trustformers_pl.factory import assemble
from trustformers_pl.testing.sections import beside

OPTIMIZERS = [
    {"name": "adamw", "lr": 0.01},
    {"name": "adamw", "lr": 0.01, "correct_bias": False},
    {"name": "adam", "lr": 0.01},
    {"name": "sgd", "lr": 0.1},
    {"name": "sgd", "lr": 0.1, "momentum": 0.9, "nesterov": True},
    {"name": "lamb", "lr": 0.01},
    {"name": "adafactor", "lr": 0.01},
]


def trained(optimizer: dict[str, Any], **sections: Any) -> dict[str, torch.Tensor]:
    run = assemble(beside({"optimizer": optimizer, **sections}, steps=3))
    run.fit()
    if torch.distributed.is_initialized():
        state = {name: whole(value) for name, value in run.module.state_dict().items()}
        torch.distributed.destroy_process_group()
        return state
    return run.module.state_dict()


def whole(value: torch.Tensor) -> torch.Tensor:
    return value.full_tensor() if isinstance(value, DTensor) else value


@pytest.mark.parametrize("optimizer", OPTIMIZERS, ids=lambda o: "-".join(map(str, o.values())))
def test_it_steps_on_shards_as_on_whole_weights(optimizer: dict[str, Any]) -> None:
    expected = trained(optimizer, ddp={})
    for stage in (1, 2, 3):
        found = trained(optimizer, zero={"stage": stage})
        for name, value in expected.items():
            assert torch.allclose(found[name], value, rtol=1e-5, atol=1e-6), (stage, name)
