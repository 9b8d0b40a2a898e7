"""What can be said of DDP's averaging, on one rank: none of it changes what is averaged there, only rounding does."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from trustformers_pl.errors import RefusedError
from trustformers_pl.testing import differences, train
from trustformers_pl.testing.sections import beside

WINDOW = {"accumulate": {"batches": 4}}


def weights(folder: Any, ddp: dict[str, Any], **sections: Any) -> Any:
    return train(beside({"ddp": ddp, **sections}, steps=4), folder)


@pytest.mark.parametrize(
    "options",
    [
        {"gradient_sync_every": 1},
        {"gradient_sync_every": 3},
        {"reduce_dtype": "fp32"},
        {"find_unused_parameters": True},
        {"static_graph": True, "gradient_sync_every": 1},
        {"bucket_size_mb": 1, "replicas": 1},
    ],
)
def test_it_is_plain_ddp_to_the_bit(options: dict[str, Any], tmp_path: Any) -> None:
    plain = weights(tmp_path / "plain", {}, **WINDOW)
    assert not differences(plain.state, weights(tmp_path / "with", options, **WINDOW).state)


def test_a_static_graph_alone_is_plain_ddp_to_the_bit(tmp_path: Any) -> None:
    assert not differences(
        weights(tmp_path / "plain", {}).state, weights(tmp_path / "static", {"static_graph": True}).state
    )


def test_averaging_in_another_type_rounds(tmp_path: Any) -> None:
    """bfloat16 keeps 8 bits; AdamW turns a gradient that is off by 2**-9 of itself into a step that is off by as much."""
    plain = weights(tmp_path / "plain", {}).run.module.state_dict()
    rounded = weights(tmp_path / "rounded", {"reduce_dtype": "bf16"}).run.module.state_dict()
    largest = max(float((rounded[name] - value).abs().max()) for name, value in plain.items())
    assert 0 < largest < 4 * 0.01  # four steps of at most the learning rate, some of them the other way round


@pytest.mark.parametrize("options", [{"static_graph": True}, {"static_graph": True, "gradient_sync_every": 2}])
def test_a_static_graph_under_accumulation(options: dict[str, Any], tmp_path: Any) -> None:
    with pytest.raises(RefusedError, match=r"ddp\.static_graph: .*set gradient_sync_every to 1"):
        weights(tmp_path, options, **WINDOW)
    assert not torch.distributed.is_initialized()
