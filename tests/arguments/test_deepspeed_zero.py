"""DeepSpeed's `zero_optimization` -> `zero`: names and defaults as in its documentation ("ZeRO Optimizations for FP16 Training")."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from trustformers_pl.arguments import from_deepspeed
from trustformers_pl.errors import RecipeError
from trustformers_pl.parallel import ZeROConfig

if TYPE_CHECKING:
    from trustformers_pl.arguments.draft import Draft

# The example of DeepSpeed's documentation, with the values that it gives as defaults.
DOCUMENTED = {
    "stage": 2, "allgather_partitions": True, "allgather_bucket_size": 5e8, "overlap_comm": False, "reduce_scatter": True,
    "reduce_bucket_size": 5e8, "contiguous_gradients": True, "sub_group_size": 1e9, "stage3_max_live_parameters": 1e9,
    "stage3_max_reuse_distance": 1e9, "stage3_prefetch_bucket_size": 5e8, "stage3_param_persistence_threshold": 1e6,
    "elastic_checkpoint": False, "ignore_unused_parameters": True, "round_robin_gradients": False,
    "zero_hpz_partition_size": 1, "zero_quantized_weights": False, "zero_quantized_gradients": False,
}  # fmt: skip


def zero(values: Any, **config: Any) -> tuple[dict[str, Any] | None, list[str]]:
    """The section, which must be valid, and the keys that were left."""
    draft = from_deepspeed({"zero_optimization": values, **config})
    section = draft.sections.get("zero")
    if section is not None:
        ZeROConfig(**section)
    return section, [item.name.removeprefix("zero_optimization.") for item in draft.left]


def test_the_documentations_example_is_carried_over_whole() -> None:
    """5e8 elements are 2e9 bytes in float32, and half of that in 16 bits: 1907.3 and 953.7 mebibytes."""
    section, left = zero(DOCUMENTED)
    assert (section, left) == ({"stage": 2, "overlap_comm": False, "bucket_size_mb": 1908}, [])
    half, _ = zero(DOCUMENTED, bf16={"enabled": True})
    assert half is not None
    assert half["bucket_size_mb"] == 954


@pytest.mark.parametrize(
    ("values", "section", "left"),
    [
        ({"stage": 1}, {"stage": 1}, []),
        ({"stage": "3"}, {"stage": 3}, []),  # numbers may be text
        (True, {"stage": 1}, []),  # its oldest form
        (False, None, []),
        ({}, None, []),
        ({"stage": 0, "offload_optimizer": {"device": "cpu"}, "reduce_bucket_size": 5}, None, []),  # ZeRO is off
        ({"stage": 2, "offload_optimizer": {"device": "cpu", "pin_memory": True, "ratio": 1.0}}, {"stage": 2, "offload_optimizer": True}, []),
        ({"stage": 1, "cpu_offload": True}, {"stage": 1, "offload_optimizer": True}, []),
        ({"stage": 2, "offload_optimizer": {}}, {"stage": 2}, []),  # its default device is none
        ({"stage": 2, "offload_optimizer": {"device": "none"}}, {"stage": 2}, []),
        (
            {"stage": 3, "offload_optimizer": {"device": "cpu"}, "offload_param": {"device": "cpu", "max_in_cpu": 5}},
            {"stage": 3, "offload_optimizer": True, "offload_params": True}, [],
        ),
        ({"stage": 3, "offload_param": {"device": "nvme", "nvme_path": "/disk"}}, {"stage": 3}, ["offload_param.device"]),
        ({"stage": 3, "offload_optimizer": {"device": "cpu", "ratio": 0.3}}, {"stage": 3, "offload_optimizer": True}, ["offload_optimizer.ratio"]),
        ({"stage": 2, "offload_param": {"device": "cpu"}}, {"stage": 2}, ["offload_param"]),
        ({"stage": 2, "reduce_scatter": False}, {"stage": 2, "reduce_scatter": False}, []),
        ({"stage": 3, "reduce_scatter": False, "overlap_comm": False}, {"stage": 3}, ["overlap_comm", "reduce_scatter"]),
        ({"stage": 3, "reduce_bucket_size": 5e7, "allgather_bucket_size": 1}, {"stage": 3}, []),
        ({"stage": 2, "reduce_bucket_size": 0}, {"stage": 2, "bucket_size_mb": 1}, []),
        ({"stage": 1, "reduce_bucket_size": 2**18, "allgather_bucket_size": 9}, {"stage": 1, "bucket_size_mb": 1}, ["allgather_bucket_size"]),
        ({"stage": 1, "reduce_bucket_size": "auto"}, {"stage": 1}, ["reduce_bucket_size"]),
        ({"stage": 3, "reduce_bucket_size": "auto", "stage3_prefetch_bucket_size": "auto"}, {"stage": 3}, []),
        ({"stage": 2, "contiguous_gradients": False}, {"stage": 2}, ["contiguous_gradients"]),
        ({"stage": 3, "zero_hpz_partition_size": 8, "zero_quantized_weights": True}, {"stage": 3}, ["zero_hpz_partition_size", "zero_quantized_weights"]),
        ({"stage": 3, "mics_shard_size": 8}, {"stage": 3}, ["mics_shard_size"]),
        ({"stage": 3, "mics_shard_size": -1, "zeropp_loco_param": None}, {"stage": 3}, []),
        ({"stage": 2, "ignore_unused_parameters": False, "my_key": 1}, {"stage": 2}, ["ignore_unused_parameters", "my_key"]),
    ],
)  # fmt: skip
def test_what_maps_to_what(values: Any, section: dict[str, Any] | None, left: list[str]) -> None:
    assert zero(values) == (section, left)


@pytest.mark.parametrize(
    ("values", "complaint"),
    [
        ({"stage": 4}, "zero_optimization.stage = 4: expected 0, 1, 2 or 3"),
        ({"stage": 2, "overlap_comm": 1}, "zero_optimization.overlap_comm = 1: expected true or false"),
        ({"stage": 2, "offload_optimizer": "cpu"}, "zero_optimization.offload_optimizer = 'cpu': expected a mapping"),
        ({"stage": 2, "reduce_bucket_size": "big"}, "zero_optimization.reduce_bucket_size = 'big': expected a number"),
        ([2], r"zero_optimization = \[2\]: expected a mapping"),
    ],
)
def test_what_is_no_such_value_is_refused(values: Any, complaint: str) -> None:
    with pytest.raises(RecipeError, match=complaint):
        from_deepspeed({"zero_optimization": values})


def on_ranks(config: dict[str, Any], devices: int | None = None) -> Draft:
    return from_deepspeed({"train_batch_size": 16, **config}, devices=devices)


def test_a_section_says_what_the_ranks_do() -> None:
    """One of the two: stage 0 is data parallelism, which one rank has no need of; ZeRO runs on one, too."""
    assert {"ddp", "zero"} & on_ranks({}).sections.keys() == set()
    assert on_ranks({"zero_optimization": {"stage": 0}}, 2).sections["ddp"] == {}
    sharded = on_ranks({"zero_optimization": {"stage": 2}}, 2)
    assert sharded.sections["trainer"] == {"devices": 2}
    assert sharded.sections["zero"] == {"stage": 2}
    assert "ddp" not in sharded.sections
    assert on_ranks({"zero_optimization": {"stage": 2}}).sections["zero"] == {"stage": 2}


@pytest.mark.parametrize(("sent", "dtype"), [("fp32", "fp32"), ("fp16", "fp16"), ("bf16", "bf16"), ("bfp16", "bf16")])
def test_gradients_are_added_up_in_the_type_that_is_asked_for(sent: str, dtype: str) -> None:
    more = {"communication_data_type": sent}
    assert on_ranks({**more, "zero_optimization": {"stage": 1}}, 2).sections["zero"]["reduce_dtype"] == dtype
    assert on_ranks(more, 2).sections["ddp"] == {"reduce_dtype": dtype}
    assert [item.name for item in on_ranks(more).left] == ["communication_data_type"]  # nobody to send to
    odd = on_ranks({"communication_data_type": "int8"}, 2)
    assert [item.name for item in odd.left] == ["communication_data_type"]
    assert odd.sections["ddp"] == {}
