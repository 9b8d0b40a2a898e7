"""transformers' `fsdp` -> `zero`, from what transformers itself writes, and from files of transformers 4."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest

from trustformers_pl.arguments import from_hf
from trustformers_pl.errors import RecipeError
from trustformers_pl.parallel import ZeROConfig

if TYPE_CHECKING:
    from trustformers_pl.arguments.draft import Draft

transformers = pytest.importorskip("transformers")
WRAPPED = {"transformer_layer_cls_to_wrap": ["BertLayer"]}


def zero(draft: Draft) -> tuple[dict[str, Any] | None, list[str]]:
    """The section, which must be valid, and what was left."""
    section = draft.sections.get("zero")
    if section is not None:
        ZeROConfig(**section)
    return section, [item.name for item in draft.left]


@pytest.mark.parametrize(
    ("arguments", "section", "left"),
    [
        ({"fsdp": True}, {}, []),
        ({"fsdp": "full_shard auto_wrap"}, {}, []),
        ({"fsdp": "shard_grad_op"}, {"reshard_after_forward": False}, []),
        ({"fsdp": ["full_shard", "offload"]}, {"offload_params": True}, []),
        ({"fsdp": True, "fsdp_config": {"cpu_offload": True}}, {"offload_params": True}, []),
        ({"fsdp": True, "fsdp_config": {"reshard_after_forward": False}}, {"reshard_after_forward": False}, []),
        ({"fsdp": True, "fsdp_config": {"fsdp_reshard_after_forward": "false"}}, {"reshard_after_forward": False}, []),
        ({"fsdp": True, "fsdp_config": {"transformer_layer_cls_to_wrap": "BertLayer"}}, {"units": ["BertLayer"]}, []),
        ({"fsdp": "full_shard auto_wrap", "fsdp_config": WRAPPED}, {"units": ["BertLayer"]}, []),
        ({"fsdp": True, "fsdp_config": {"state_dict_type": "SHARDED_STATE_DICT", "cpu_ram_efficient_loading": True}}, {}, []),
        ({"fsdp": True, "fsdp_config": {"activation_checkpointing": True}}, {}, ["fsdp_config.activation_checkpointing"]),
        (
            {"fsdp": True, "fsdp_config": {"auto_wrap_policy": "SIZE_BASED_WRAP", "min_num_params": 1000}},
            {}, ["fsdp_config.min_num_params"],
        ),
        ({"fsdp": "hybrid_shard", "fsdp_config": {"version": 1}}, {}, ["fsdp"]),
        ({"fsdp": "hybrid_shard_zero2", "fsdp_config": {"version": 1}}, {"reshard_after_forward": False}, ["fsdp"]),
        ({"fsdp": "full_shard", "fsdp_config": {"version": 1, "backward_prefetch": "BACKWARD_PRE", "use_orig_params": "true"}}, {}, []),
    ],
)  # fmt: skip
def test_what_transformers_5_writes(arguments: dict[str, Any], section: dict[str, Any], left: list[str]) -> None:
    args = transformers.TrainingArguments(output_dir="out", use_cpu=True, **arguments)
    draft = from_hf(json.loads(args.to_json_string()), devices=2)
    assert zero(draft) == ({"stage": 3, **section}, left)
    assert draft.sections["trainer"]["devices"] == 2
    assert "ddp" not in draft.sections


# By hand, after transformers 4's documentation: it writes what it was given, and `fsdp_config` with its defaults.
OF_4 = {"min_num_params": 0, "xla": False, "xla_fsdp_v2": False, "xla_fsdp_grad_ckpt": False}


@pytest.mark.parametrize(
    ("arguments", "section", "left"),
    [
        ({"fsdp": ["full_shard", "auto_wrap"], "fsdp_config": {**OF_4, **WRAPPED}}, {"stage": 3, "units": ["BertLayer"]}, []),
        ({"fsdp": ["shard_grad_op", "offload"], "fsdp_config": OF_4}, {"stage": 3, "reshard_after_forward": False, "offload_params": True}, []),
        ({"fsdp": ["hybrid_shard", "auto_wrap"], "fsdp_config": OF_4}, {"stage": 3}, ["fsdp"]),
        ({"fsdp": ["full_shard"], "fsdp_config": {**OF_4, "min_num_params": 2000}}, {"stage": 3}, ["fsdp_config.min_num_params"]),
        ({"fsdp": ["full_shard"], "fsdp_min_num_params": 2000}, {"stage": 3}, ["fsdp_config.min_num_params"]),
        ({"fsdp": ["full_shard"], "fsdp_transformer_layer_cls_to_wrap": "A,B"}, {"stage": 3, "units": ["A", "B"]}, []),
        ({"fsdp": ["full_shard"], "fsdp_config": {**OF_4, "xla": True}}, {"stage": 3}, ["fsdp_config.xla"]),
        ({"fsdp": ["full_shard"], "fsdp_config": "fsdp.json"}, {"stage": 3}, ["fsdp_config"]),
        ({"fsdp": ["no_shard"], "fsdp_config": OF_4}, None, []),
        ({"fsdp": ["shard_all"], "fsdp_config": OF_4}, None, ["fsdp"]),
        ({"fsdp": [], "fsdp_config": {**OF_4, **WRAPPED}}, None, []),
        ({"fsdp": ""}, None, []),
    ],
)  # fmt: skip
def test_files_of_transformers_4(arguments: dict[str, Any], section: dict[str, Any] | None, left: list[str]) -> None:
    draft = from_hf(arguments, devices=2)
    assert zero(draft) == (section, left)
    assert ("ddp" in draft.sections) == (section is None)


def test_it_is_written_for_one_device_too() -> None:
    """The file does not say how many there will be."""
    draft = from_hf({"fsdp": True, "ddp_bucket_cap_mb": 30})
    assert zero(draft) == ({"stage": 3}, [])
    assert "devices" not in draft.sections["trainer"]


@pytest.mark.parametrize(
    ("values", "complaint"),
    [
        ({"fsdp": 3}, "fsdp = 3: expected true, false or names of options"),
        ({"fsdp": True, "fsdp_config": [1]}, r"fsdp_config = \[1\]: expected a mapping"),
        ({"fsdp": True, "fsdp_config": {"cpu_offload": "perhaps"}}, "fsdp_config.cpu_offload = 'perhaps': expected true or"),
    ],
)  # fmt: skip
def test_values_of_another_type(values: dict[str, Any], complaint: str) -> None:
    with pytest.raises(RecipeError, match=complaint):
        from_hf(values)
