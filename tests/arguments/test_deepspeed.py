"""From DeepSpeed's configuration to sections: values, differences, and what is not there yet."""

from __future__ import annotations

import math
from typing import Any

import pytest

from trustformers_pl.arguments import from_deepspeed
from trustformers_pl.errors import RecipeError
from trustformers_pl.optim import lr_lambda

# As DeepSpeed's documentation describes them, for BERT on several GPUs.
WHOLE = {
    "train_batch_size": 64, "train_micro_batch_size_per_gpu": 8, "gradient_accumulation_steps": 4, "steps_per_print": 100,
    "optimizer": {"type": "Adam", "params": {"lr": 3e-5, "betas": [0.8, 0.999], "eps": 1e-8, "weight_decay": 3e-7}},
    "scheduler": {"type": "WarmupDecayLR", "params": {"warmup_min_lr": 0, "warmup_max_lr": 2e-5, "warmup_num_steps": 500, "warmup_type": "linear", "total_num_steps": 10000}},
    "fp16": {"enabled": True, "loss_scale": 0, "initial_scale_power": 14, "loss_scale_window": 500, "hysteresis": 1, "min_loss_scale": 2},
    "gradient_clipping": 0.5, "wall_clock_breakdown": False, "zero_allow_untested_optimizer": True,
}  # fmt: skip
# What transformers' users write: everything that its arguments say too is `auto`.
WITH_TRANSFORMERS = {
    "train_batch_size": "auto", "train_micro_batch_size_per_gpu": "auto", "gradient_accumulation_steps": "auto",
    "optimizer": {"type": "AdamW", "params": {"lr": "auto", "betas": "auto", "eps": "auto", "weight_decay": "auto"}},
    "scheduler": {"type": "WarmupLR", "params": {"warmup_min_lr": "auto", "warmup_max_lr": "auto", "warmup_num_steps": "auto"}},
    "fp16": {"enabled": "auto"}, "bf16": {"enabled": "auto"}, "gradient_clipping": "auto",
    "zero_optimization": {
        "stage": 3, "offload_optimizer": {"device": "cpu", "pin_memory": True}, "offload_param": {"device": "nvme"},
        "overlap_comm": True, "stage3_gather_16bit_weights_on_model_save": True, "reduce_bucket_size": "auto",
    },
}  # fmt: skip


def test_a_whole_configuration() -> None:
    draft = from_deepspeed(WHOLE)
    assert draft.sections == {
        "data": {"init_args": {"batch_size": 16}},  # 8 on each of 64 / (8 x 4) = 2 ranks
        "accumulate": {"batches": 4},
        "trainer": {"devices": 2, "log_every_n_steps": 100},
        "ddp": {},
        "optimizer": {"name": "adamw", "lr": 2e-5, "betas": [0.8, 0.999], "eps": 1e-8, "weight_decay": 3e-7},
        "schedule": {"name": "linear", "warmup_steps": 500, "num_training_steps": 10000},
        "precision": {
            "dtype": "fp16", "opt_level": "O2", "loss_scale": "dynamic", "initial_scale": 16384.0, "growth_interval": 500,
            "min_scale": 2.0,
        },
        "clip": {"norm": 0.5},
    }  # fmt: skip
    assert [(item.name, item.value) for item in draft.left] == [("optimizer.params.weight_decay", 3e-7)]


def test_auto_is_listed_as_a_value_that_is_missing() -> None:
    draft = from_deepspeed(WITH_TRANSFORMERS)
    assert draft.sections == {
        "optimizer": {"name": "adamw"},
        "schedule": {"name": "constant"},
        "zero": {"stage": 3, "offload_optimizer": True},
    }
    open_ones = [item.name for item in draft.left if item.value == "auto"]
    assert sorted(open_ones) == sorted(
        [
            "train_batch_size", "train_micro_batch_size_per_gpu", "gradient_accumulation_steps", "optimizer.params.lr",
            "optimizer.params.betas", "optimizer.params.eps", "optimizer.params.weight_decay", "scheduler.params.warmup_min_lr",
            "scheduler.params.warmup_max_lr", "scheduler.params.warmup_num_steps", "fp16.enabled", "bf16.enabled",
            "gradient_clipping",
        ]
    )  # fmt: skip


@pytest.mark.parametrize(
    ("sizes", "devices", "expected"),
    [
        ((64, 8, 4), None, (8, 4, 2)),
        ((64, 8, 4), 2, (8, 4, 2)),
        ((64, 8, None), None, (8, 8, 1)),
        ((64, 8, None), 4, (8, 2, 4)),
        ((64, None, 4), 2, (8, 4, 2)),
        ((64, None, None), 4, (16, 1, 4)),
        ((None, 8, 4), 2, (8, 4, 2)),
        ((None, 8, None), None, (8, 1, 1)),
        ((None, None, 4), None, None),
    ],
)
def test_the_third_batch_size_follows_from_two(sizes: Any, devices: int | None, expected: Any) -> None:
    """As in DeepSpeed's documentation: train_batch_size = micro batch x accumulation x ranks."""
    names = ("train_batch_size", "train_micro_batch_size_per_gpu", "gradient_accumulation_steps")
    config = {name: size for name, size in zip(names, sizes, strict=True) if size is not None}
    values = from_deepspeed(config, devices=devices).values
    if expected is None:
        assert values == {}
        return
    micro, accumulated, ranks = expected
    assert values["data.init_args.batch_size"] == micro * ranks
    assert values.get("accumulate.batches", 1) == accumulated
    assert values.get("trainer.devices", 1) == ranks
    assert ("ddp" in values) == (ranks > 1)


@pytest.mark.parametrize(
    ("config", "devices", "complaint"),
    [
        ({**WHOLE, "train_batch_size": 60}, None, "train_batch_size = 60 is not a multiple of train_micro_batch_size_per_gpu = 8"),
        (WHOLE, 4, r"train_batch_size = 64 is .* = 8 x gradient_accumulation_steps = 4 x 2 ranks, not 4"),
        ({"train_batch_size": 10}, 4, "train_batch_size = 10 is not a multiple of gradient_accumulation_steps = 1 x 4 ranks"),
        ({"train_batch_size": 0}, None, "train_batch_size = 0: expected at least 1"),
        ({"gradient_clipping": "1e"}, None, "gradient_clipping = '1e': expected a number"),
        ({"fp16": True}, None, "fp16 = True: expected a mapping"),
        ({"fp16": {"enabled": 1}}, None, "fp16.enabled = 1: expected true or false"),
    ],
)  # fmt: skip
def test_what_contradicts_itself_is_refused(config: dict[str, Any], devices: int | None, complaint: str) -> None:
    with pytest.raises(RecipeError, match=complaint):
        from_deepspeed(config, devices=devices)


def optimizer(kind: str, **params: Any) -> Any:
    return from_deepspeed({"optimizer": {"type": kind, "params": params}})


def test_optimizers() -> None:
    """DeepSpeed's Adam is AdamW unless `adam_w_mode` is false; its defaults are torch's, without weight decay."""
    assert optimizer("Adam").sections["optimizer"] == {"name": "adamw", "lr": 1e-3, "weight_decay": 0.0}
    assert optimizer("Adam", adam_w_mode=False, lr=0.1).sections["optimizer"]["name"] == "adam"
    lamb = optimizer("Lamb", lr=2e-3, max_coeff=0.3)
    assert lamb.sections["optimizer"] == {"name": "lamb", "lr": 2e-3, "weight_decay": 0.0}
    assert [(item.name, item.value) for item in lamb.left] == [("optimizer.params.min_coeff, max_coeff", [0.01, 0.3])]
    sgd = optimizer("SGD", lr=0.1, momentum=0.9)
    assert sgd.sections["optimizer"] == {"name": "sgd", "lr": 0.1, "momentum": 0.9, "weight_decay": 0.0}
    assert [item.name for item in optimizer("AdamW", amsgrad=True, freeze_step=9).left] == [
        "optimizer.params.amsgrad",
        "optimizer.params.freeze_step",
    ]


@pytest.mark.parametrize("kind", ["OneBitAdam", "ZeroOneAdam", "OneBitLamb"])
def test_compressed_optimizers_are_not_there(kind: str) -> None:
    draft = optimizer(kind, lr=1e-3, freeze_step=400)
    assert draft.sections == {}
    (left,) = draft.left
    assert left.value == kind
    assert left.why.startswith("compressed optimizers are not there yet")


def test_half_precision() -> None:
    assert from_deepspeed({"bf16": {"enabled": True}}).sections == {"precision": {"dtype": "bf16", "opt_level": "O2"}}
    static = from_deepspeed({"fp16": {"enabled": True, "loss_scale": 128, "hysteresis": 2}})
    assert static.sections["precision"] == {"dtype": "fp16", "opt_level": "O2", "loss_scale": 128.0}
    assert static.left == []
    default = from_deepspeed({"fp16": {"enabled": True, "auto_cast": True}})
    assert default.values["precision.initial_scale"] == 65536.0
    assert [item.name for item in default.left] == ["fp16.hysteresis", "fp16.auto_cast"]
    assert from_deepspeed({"fp16": {"enabled": False, "loss_scale_window": 3}}).values == {}


def test_everything_else_that_is_on_is_listed() -> None:
    config = {
        "flops_profiler": {"enabled": True}, "tensorboard": {"enabled": True}, "wandb": {"enabled": False},
        "activation_checkpointing": {"partition_activations": True}, "prescale_gradients": False, "communication_data_type": "fp16",
        "data_efficiency": {"enabled": False}, "dump_state": True, "my_key": 3,
        "scheduler": {"type": "OneCycle", "params": {"cycle_min_lr": 1}},
    }  # fmt: skip
    assert [item.name for item in from_deepspeed(config).left] == [
        "scheduler.type", "flops_profiler", "tensorboard", "activation_checkpointing", "communication_data_type", "my_key",
    ]  # fmt: skip


def deepspeed_factor(kind: str, iteration: int, warmup: int, total: int, floor: float) -> float:
    """Its `lr_schedules`, with `warmup_type: linear`: the factor that it sets when it has been stepped `iteration + 1` times."""
    if iteration < warmup:
        return iteration / warmup
    if kind == "WarmupLR":
        return 1.0
    if kind == "WarmupDecayLR":
        return max(0.0, (total - iteration) / (total - warmup))
    progress = min(1.0, (iteration - warmup + 1) / (total - warmup))
    return floor + (1 - floor) * (1 + math.cos(math.pi * progress)) / 2


@pytest.mark.parametrize("kind", ["WarmupLR", "WarmupDecayLR", "WarmupCosineLR"])
def test_the_curve_is_deepspeeds(kind: str) -> None:
    """Equal by iteration, only that DeepSpeed's cosine is one step ahead of itself after the warm-up."""
    warmup, total = 5, 20
    params = {"warmup_num_steps": warmup, "warmup_type": "linear"}
    params |= {} if kind == "WarmupLR" else {"total_num_steps": total}
    section = from_deepspeed({"scheduler": {"type": kind, "params": params}}).sections["schedule"]
    factor = lr_lambda(
        section["name"], warmup_steps=section["warmup_steps"], total_steps=section.get("num_training_steps", total),
        **({"min_ratio": section["min_ratio"]} if "min_ratio" in section else {}),
    )  # fmt: skip
    ahead = 1 if kind == "WarmupCosineLR" else 0
    ours = [factor(step if step < warmup else step + ahead) for step in range(total)]
    assert ours == pytest.approx([deepspeed_factor(kind, i, warmup, total, 1e-4) for i in range(total)], abs=1e-12)


def test_a_logarithmic_warmup_is_listed() -> None:
    """DeepSpeed's default."""
    draft = from_deepspeed({"scheduler": {"type": "WarmupLR", "params": {"warmup_num_steps": 100}}})
    assert [(item.name, item.value) for item in draft.left] == [("scheduler.params.warmup_type", "log")]
