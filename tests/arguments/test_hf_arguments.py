"""From transformers' TrainingArguments to sections, held against transformers' own class, schedules and Trainer."""

from __future__ import annotations

import dataclasses
import json
from typing import Any

import pytest
import tiny
import torch
from lightning import Callback
from torch import nn

from trustformers_pl.arguments import from_hf
from trustformers_pl.arguments.hf_left import SAY_NOTHING
from trustformers_pl.errors import RecipeError
from trustformers_pl.factory import assemble
from trustformers_pl.models import GPT
from trustformers_pl.optim import decay_groups, parameter_groups

transformers = pytest.importorskip("transformers")


def saved(**arguments: Any) -> dict[str, Any]:
    """What transformers writes of its own arguments."""
    return json.loads(transformers.TrainingArguments(output_dir="out", **arguments).to_json_string())  # type: ignore[no-any-return]


DEFAULTS = {
    "seed": 42,
    "trainer.max_epochs": 3,
    "trainer.default_root_dir": "out",
    "data.init_args.batch_size": 8,
    "data.init_args.val_batch_size": 8,
    "optimizer.name": "adamw",
    "optimizer.lr": 5e-5,
    "optimizer.weight_decay": 0.0,
    "optimizer.betas": [0.9, 0.999],
    "optimizer.eps": 1e-8,
    "schedule.name": "linear",
    "clip.norm": 1.0,
    "csv": {},
    "metrics": {},
    "progress": {},
    "trainer.log_every_n_steps": 500,
    "trainer.limit_val_batches": 0,
    "checkpoint.every_n_steps": 500,
}


def test_transformers_defaults_are_carried_over_in_silence() -> None:
    draft = from_hf(saved())
    assert draft.values == DEFAULTS
    assert draft.left == []
    assert from_hf({"output_dir": "out"}).values == DEFAULTS  # missing arguments have their defaults


def changed(field: dataclasses.Field[Any], value: Any) -> Any:
    """Another value of an argument, as its file would hold it."""
    if isinstance(value, bool):
        return not value
    if isinstance(value, int | float):
        return 7
    if isinstance(value, dict):
        return {**value, "split_batches": True}
    names = {"optim": "sgd", "lr_scheduler_type": "cosine", "logging_strategy": "no", "eval_strategy": "epoch", "save_strategy": "no"}  # fmt: skip
    if value is None or isinstance(value, str | list):
        typed = {"ddp_bucket_cap_mb": 30, "save_total_limit": 3, "lr_scheduler_kwargs": {"min_lr": 1e-6}}
        return typed.get(field.name, names.get(field.name, ["word"] if isinstance(value, list) else "word"))
    raise AssertionError(field.name)


@pytest.mark.parametrize("field", dataclasses.fields(transformers.TrainingArguments), ids=lambda field: field.name)
def test_no_argument_of_transformers_is_ignored(field: dataclasses.Field[Any]) -> None:
    """Changed from its default, each shows in the sections or in the list of what was left, or is known to say nothing."""
    before = saved()
    if not field.init or field.name in (
        *SAY_NOTHING,
        "eval_steps",
        "gradient_checkpointing",
    ):  # needs a strategy; an alias
        return
    strategies = {"fp16_opt_level": {"fp16": True}, "warmup_steps": {}, "ddp_bucket_cap_mb": {}}
    values = {**before, **strategies.get(field.name, {}), field.name: changed(field, before[field.name])}
    old, new = from_hf(before, devices=2), from_hf(values, devices=2)
    assert (new.values, new.left) != (old.values, old.left)


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        ({"per_device_train_batch_size": 16, "gradient_accumulation_steps": 4}, {"data.init_args.batch_size": 16, "accumulate.batches": 4}),
        ({"max_steps": 100}, {"trainer.max_steps": 100, "trainer.max_epochs": None}),
        ({"warmup_steps": 0.1}, {"schedule.warmup_ratio": 0.1}),
        ({"warmup_steps": 20}, {"schedule.warmup_steps": 20}),
        ({"eval_strategy": "epoch"}, {"trainer.limit_val_batches": None}),
        (
            {"eval_strategy": "steps", "eval_steps": 50, "gradient_accumulation_steps": 4},
            {"trainer.val_check_interval": 200, "trainer.check_val_every_n_epoch": None, "accumulate.batches": 4},
        ),
        ({"eval_strategy": "steps", "logging_steps": 30}, {"trainer.val_check_interval": 30, "trainer.log_every_n_steps": 30}),
        ({"max_steps": 1000, "save_steps": 0.25, "logging_steps": 0.01}, {"checkpoint.every_n_steps": 250, "trainer.log_every_n_steps": 10}),
        ({"save_strategy": "no"}, {"checkpoint.every_n_steps": None}),
        ({"save_total_limit": 3}, {"checkpoint.keep_last": 3}),
        (
            {"eval_strategy": "steps", "load_best_model_at_end": True, "save_total_limit": 3},
            {
                "checkpoint.best.monitor": "val_loss", "checkpoint.best.mode": "min",
                "checkpoint.best.load_at_end": True, "checkpoint.keep_last": 2,
            },
        ),
        (
            {"eval_strategy": "steps", "save_strategy": "best", "metric_for_best_model": "eval_loss"},
            {"checkpoint.every_n_steps": None, "checkpoint.best.monitor": "val_loss", "checkpoint.best.load_at_end": None},
        ),
        ({"max_grad_norm": 0.0}, {"clip.norm": None}),
        ({"optim": "adafactor"}, {"optimizer.name": "adafactor", "optimizer.betas": None, "optimizer.eps": None}),
        ({"optim": "sgd", "optim_args": "momentum=0.9, nesterov=true"}, {"optimizer.momentum": 0.9, "optimizer.nesterov": True}),
        ({"lr_scheduler_type": "polynomial"}, {"schedule.power": 1.0, "schedule.min_ratio": 1e-7 / 5e-5}),
        ({"lr_scheduler_type": "cosine_with_min_lr", "lr_scheduler_kwargs": {"min_lr": 5e-6}}, {"schedule.min_ratio": 0.1}),
        ({"bf16": True, "use_cpu": True}, {"precision.dtype": "bf16", "trainer.accelerator": "cpu"}),
        ({"fp16": True}, {"precision.dtype": "fp16", "precision.opt_level": None}),
        ({"dataloader_num_workers": 2, "dataloader_drop_last": True}, {"data.init_args.num_workers": 2, "data.init_args.drop_last": True}),
        ({"full_determinism": True, "seed": 7}, {"trainer.deterministic": True, "seed": 7}),
    ],
)  # fmt: skip
def test_what_maps_to_what(arguments: dict[str, Any], expected: dict[str, Any]) -> None:
    draft = from_hf(saved(**arguments))
    assert {key: draft.values.get(key) for key in expected} == pytest.approx(expected)
    assert draft.left == []


@pytest.mark.parametrize(
    ("arguments", "left"),
    [
        ({"neftune_noise_alpha": 5.0}, ["neftune_noise_alpha"]),
        ({"label_smoothing_factor": 0.1}, ["label_smoothing_factor"]),
        ({"gradient_checkpointing": True}, ["activation_checkpointing"]),
        ({"optim": "adamw_bnb_8bit"}, ["optim"]),
        ({"lr_scheduler_type": "inverse_sqrt"}, ["lr_scheduler_type"]),
        ({"lr_scheduler_type": "cosine", "lr_scheduler_kwargs": {"num_cycles": 2}}, ["lr_scheduler_kwargs.num_cycles"]),
        ({"num_train_epochs": 2.5}, ["num_train_epochs"]),
        ({"save_strategy": "epoch"}, ["save_strategy"]),
        ({"report_to": ["tensorboard", "wandb"]}, ["report_to", "report_to"]),
        (
            {"eval_strategy": "steps", "load_best_model_at_end": True, "metric_for_best_model": "eval_accuracy"},
            ["metric_for_best_model"],
        ),
        ({"torch_compile": True}, ["torch_compile", "torch_compile_backend"]),
        ({"save_steps": 0.5}, ["save_steps"]),
        ({"lr_scheduler_type": "constant", "warmup_steps": 5}, ["warmup_steps"]),
    ],
)  # fmt: skip
def test_what_cannot_be_carried_over_is_listed(arguments: dict[str, Any], left: list[str]) -> None:
    found = from_hf(saved(**arguments)).left
    assert sorted(item.name for item in found) == left
    assert all(item.why for item in found)


def test_files_of_transformers_4() -> None:
    """Written by hand after its names and defaults, which transformers 5 no longer writes."""
    values = {
        "output_dir": "out", "overwrite_output_dir": False, "evaluation_strategy": "steps", "eval_steps": 10, "no_cuda": True,
        "warmup_ratio": 0.06, "warmup_steps": 0, "logging_dir": "out/runs/Jan01_00-00-00_host", "run_name": "out",
        "fp16_opt_level": "O1", "half_precision_backend": "auto", "fp16_backend": "auto", "save_safetensors": True,
        "past_index": -1, "optim": "adamw_hf", "report_to": [], "group_by_length": True, "tpu_num_cores": None, "local_rank": 0,
        "push_to_hub_token": "<PUSH_TO_HUB_TOKEN>", "ray_scope": "last", "mp_parameters": "", "fsdp": [], "_n_gpu": 0,
        "fsdp_config": {"min_num_params": 0, "xla": False}, "dispatch_batches": None, "split_batches": None,
    }  # fmt: skip
    draft = from_hf(values)
    assert [item.name for item in draft.left] == ["group_by_length"]
    expected = {"schedule.warmup_ratio": 0.06, "trainer.val_check_interval": 10, "trainer.accelerator": "cpu", "optimizer.name": "adamw"}  # fmt: skip
    assert {key: draft.values[key] for key in expected} == expected
    apex = {"fp16": True, "half_precision_backend": "apex", "fp16_opt_level": "O2"}
    assert from_hf(apex).values["precision.opt_level"] == "O2"


def test_batches_are_per_device() -> None:
    draft = from_hf(saved(ddp_find_unused_parameters=True), devices=4)
    expected = {"data.init_args.batch_size": 32, "trainer.devices": 4, "ddp.find_unused_parameters": True}
    assert {key: draft.values[key] for key in expected} == expected
    assert draft.sections["ddp"] == {"find_unused_parameters": True}


@pytest.mark.parametrize(
    ("values", "complaint"),
    [
        ({"learning_rate": "fast"}, "learning_rate = 'fast': expected a number"),
        ({"learning_rate": True}, "learning_rate = True: expected a number"),
        ({"max_steps": 1.5}, "max_steps = 1.5: expected a whole number"),
        ({"max_steps": float("inf")}, "max_steps = inf: expected a number"),
        ({"fp16": "yes"}, "fp16 = 'yes': expected true or false"),
        ({"lr_scheduler_kwargs": [1]}, r"lr_scheduler_kwargs = \[1\]: expected a mapping"),
        ({"optim": 3}, "optim = 3: expected a name"),
    ],
)
def test_values_of_another_type(values: dict[str, Any], complaint: str) -> None:
    with pytest.raises(RecipeError, match=complaint):
        from_hf(values)


def test_numbers_may_be_written_as_text() -> None:
    """YAML readers give `5e-5` as text, and transformers takes it."""
    assert from_hf({"learning_rate": "5e-5"}).values["optimizer.lr"] == 5e-5


class Rates(Callback):
    """The learning rate of each optimizer step."""

    def __init__(self) -> None:
        self.seen: list[float] = []

    def on_before_optimizer_step(self, trainer: Any, module: Any, optimizer: Any) -> None:
        self.seen.append(optimizer.param_groups[0]["lr"])


def trained(sections: dict[str, Any], callback: Callback, **more: Any) -> Any:
    data = {"class_path": "tiny.Data", "init_args": {"count": 32, "shuffle": False, "batch_size": 4}}
    trainer = {"accelerator": "cpu", **sections["trainer"], "limit_val_batches": 0}
    run = assemble({**sections, "model": {"class_path": "tiny.Composable"}, "data": data, "trainer": trainer, "csv": None, "progress": None, "metrics": None, **more})  # fmt: skip
    run.trainer.callbacks.append(callback)
    return run


SCHEDULES: list[tuple[str, dict[str, Any] | None]] = [
    ("linear", None),
    ("cosine", None),
    ("constant", None),
    ("constant_with_warmup", None),
    ("polynomial", {"power": 2.0, "lr_end": 1e-3}),
    ("polynomial", None),
    ("cosine_with_min_lr", {"min_lr": 0.01}),
    ("cosine_with_min_lr", {"min_lr_rate": 0.2}),
    ("warmup_stable_decay", {"num_decay_steps": 6}),
    ("warmup_stable_decay", {"num_decay_steps": 5, "decay_type": "1-sqrt"}),
]


@pytest.mark.parametrize("warmup", [0, 5, 0.3])
@pytest.mark.parametrize(("kind", "arguments"), SCHEDULES)
def test_the_learning_rate_is_transformers_own(kind: str, arguments: dict[str, Any] | None, warmup: float) -> None:
    """At every step of a run, the rate that `transformers.get_scheduler` gives for that step."""
    args = transformers.TrainingArguments(
        output_dir="out", learning_rate=0.1, max_steps=20, lr_scheduler_type=kind, lr_scheduler_kwargs=arguments,
        warmup_steps=warmup, max_grad_norm=0.0, save_strategy="no",
    )  # fmt: skip
    optimizer = torch.optim.AdamW([nn.Parameter(torch.zeros(1))], lr=0.1)
    schedule = transformers.get_scheduler(kind, optimizer, args.get_warmup_steps(20), 20, arguments)
    expected = []
    for _ in range(20):
        expected.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        schedule.step()
    rates = Rates()
    trained(from_hf(json.loads(args.to_json_string())).sections, rates).fit()
    assert rates.seen == pytest.approx(expected, rel=1e-12, abs=1e-15)


class Regression(nn.Module):
    """`tiny.Composable`, as transformers' Trainer takes it."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(4, 1)

    def forward(self, x: torch.Tensor, y: torch.Tensor) -> dict[str, torch.Tensor]:
        return {"loss": ((self.layer(x) - y) ** 2).mean()}


@pytest.mark.parametrize(
    ("optim", "more", "steps"),
    [
        ("adamw_torch", {"max_grad_norm": 0.0}, 24),
        ("adafactor", {"max_grad_norm": 0.0}, 24),
        ("sgd", {"max_grad_norm": 0.0, "optim_args": "momentum=0.9"}, 24),
        ("sgd", {"max_grad_norm": 0.5}, 24),
        ("adamw_torch", {"gradient_accumulation_steps": 2, "max_grad_norm": 0.5}, 12),
        ("sgd", {"gradient_accumulation_steps": 3}, 9),
    ],
)
def test_weights_are_those_of_transformers_trainer(optim: str, more: dict[str, Any], steps: int) -> None:
    """Its Trainer on the same samples in the same order: with warm-up, decay of the rate and of the matrix, and clipping.

    Eight batches make an epoch, so that windows of three end with one of two.
    """
    args = transformers.TrainingArguments(
        output_dir="out", learning_rate=0.05, num_train_epochs=3, per_device_train_batch_size=4, optim=optim, weight_decay=0.3,
        warmup_steps=0.2, lr_scheduler_type="cosine", save_strategy="no", report_to="none",
        train_sampling_strategy="sequential", use_cpu=True, disable_tqdm=True, logging_strategy="no", **more,
    )  # fmt: skip
    samples = [{"x": x, "y": y} for x, y in tiny.samples(32)]
    torch.manual_seed(3)
    model = Regression()
    sections = from_hf(json.loads(args.to_json_string())).sections
    run = trained(sections, Rates())
    run.module.load_state_dict(model.state_dict())
    transformers.Trainer(model=model, args=args, train_dataset=samples).train()
    run.fit()
    assert run.trainer.global_step == steps
    for name, weights in model.state_dict().items():
        assert torch.allclose(run.module.state_dict()[name], weights, rtol=1e-5, atol=1e-7), name


def decayed_by_transformers(model: nn.Module) -> set[str]:
    args = transformers.TrainingArguments(output_dir="out", use_cpu=True, report_to="none")
    named = dict(model.named_parameters())  # of tied weights, it lists both names
    return set(transformers.Trainer(model=model, args=args).get_decay_parameter_names(model)) & named.keys()


def decayed_here(groups: list[dict[str, Any]]) -> set[str]:
    return {name for group in groups if group["weight_decay"] for name, _ in group["params"]}


SIZE = {"num_hidden_layers": 1, "hidden_size": 8, "intermediate_size": 8, "num_attention_heads": 2, "vocab_size": 16}
MODELS = {
    "bert": lambda: transformers.BertModel(transformers.BertConfig(**SIZE)),
    "gpt2": lambda: transformers.GPT2LMHeadModel(transformers.GPT2Config(n_layer=1, n_embd=8, n_head=2, vocab_size=16)),
    "llama": lambda: transformers.LlamaForCausalLM(transformers.LlamaConfig(**SIZE, num_key_value_heads=2)),
    "ours": lambda: GPT(d_model=8, n_layers=1, n_heads=2),
}


@pytest.mark.parametrize("name", MODELS)
def test_the_same_weights_decay(name: str) -> None:
    """transformers goes by names and kinds of layers, we by dimensions."""
    model = MODELS[name]()
    assert decayed_here(decay_groups(model, weight_decay=0.1)) == decayed_by_transformers(model)


def test_a_matrix_called_bias_decays_here_unless_told() -> None:
    """T5's position bias is an embedding table: transformers leaves it out because of its name. The guide says so."""
    config = transformers.T5Config(num_layers=1, d_model=8, d_kv=4, d_ff=8, num_heads=2, vocab_size=16)
    model = transformers.T5EncoderModel(config)
    theirs = decayed_by_transformers(model)
    ours = decayed_here(decay_groups(model, weight_decay=0.1))
    assert {name.rpartition(".")[0].rpartition(".")[2] for name in ours ^ theirs} == {"relative_attention_bias"}
    told = [{"match": "*relative_attention_bias*", "weight_decay": 0.0}]
    assert decayed_here(parameter_groups(model, lr=1e-3, weight_decay=0.1, overrides=told)) == theirs
