"""The section `args`: what each argument stands for, that written sections win, and what is refused in one line."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest
import tiny

import trustformers_pl as tfpl
from trustformers_pl.errors import RecipeError
from trustformers_pl.factory import assemble
from trustformers_pl.plan import Plan, make_plan
from trustformers_pl.recipe import Recipe
from trustformers_pl.recipe.places import flatten

BASE = {"model": {"class_path": "tiny.Composable"}, "data": {"class_path": "tiny.Data"}}


def plan(args: dict[str, Any], **sections: Any) -> Plan:
    return make_plan(Recipe.from_mapping({**BASE, **sections, "args": args}))


def stands_for(args: dict[str, Any], **sections: Any) -> dict[str, Any]:
    """Key -> value of what came from an argument."""
    leaves = flatten(plan(args, **sections).recipe.tree)
    return {key: leaf.value for key, leaf in leaves.items() if leaf.place.via}


THREE_EPOCHS = {"trainer.max_epochs": 3}


@pytest.mark.parametrize(
    ("args", "expected"),
    [
        ({}, THREE_EPOCHS),
        ({"num_epochs": 5}, {"trainer.max_epochs": 5}),
        ({"num_epochs": 5, "max_steps": 70}, {"trainer.max_steps": 70}),
        ({"train_batch_size": 32, "eval_batch_size": 64}, {"data.init_args.batch_size": 32, "data.init_args.val_batch_size": 64}),
        ({"gradient_accumulation_steps": 4}, {"accumulate.batches": 4}),
        ({"gradient_accumulation_steps": 1}, {}),
        ({"gradient_accumulation_steps": 4, "gradient_sync_frequency": 4}, {"accumulate.batches": 4}),
        ({"dataloader_num_workers": 2, "dataloader_drop_last": True}, {"data.init_args.num_workers": 2, "data.init_args.drop_last": True}),
        ({"learning_rate": 1e-4}, {"optimizer.name": "adamw", "optimizer.lr": 1e-4}),
        ({"optim": "adamw_torch", "weight_decay": 0.1}, {"optimizer.name": "adamw", "optimizer.weight_decay": 0.1}),
        ({"optim": "lamb"}, {"optimizer.name": "lamb"}),
        ({"adam_beta2": 0.98}, {"optimizer.name": "adamw", "optimizer.betas": [0.9, 0.98]}),
        ({"adam_beta1": 0.8, "adam_epsilon": 1e-6}, {"optimizer.name": "adamw", "optimizer.betas": [0.8, 0.999], "optimizer.eps": 1e-6}),
        ({"max_grad_norm": 0.5}, {"clip.norm": 0.5}),
        ({"max_grad_norm": 0.0}, {}),
        ({"lr_scheduler_type": "constant_with_warmup"}, {"schedule.name": "constant"}),
        ({"warmup_steps": 10}, {"schedule.name": "linear", "schedule.warmup_steps": 10}),
        ({"lr_scheduler_type": "cosine", "warmup_ratio": 0.1}, {"schedule.name": "cosine", "schedule.warmup_ratio": 0.1}),
        ({"warmup_steps": 10, "warmup_ratio": 0.1}, {"schedule.name": "linear", "schedule.warmup_steps": 10}),
        ({"fp16": True}, {"precision.dtype": "fp16"}),
        (
            {"fp16": True, "fp16_opt_level": "O2", "fp16_loss_scale": 128.0},
            {"precision.dtype": "fp16", "precision.opt_level": "O2", "precision.loss_scale": 128.0},
        ),
        ({"bf16": True}, {"precision.dtype": "bf16"}),
        ({"logging_steps": 100}, {"trainer.log_every_n_steps": 100}),
        ({"eval_steps": 500}, {"trainer.val_check_interval": 500, "trainer.check_val_every_n_epoch": None}),
        ({"save_steps": 1000, "save_total_limit": 3}, {"checkpoint.every_n_steps": 1000, "checkpoint.keep_last": 3}),
        (
            {"load_best_model_at_end": True, "save_total_limit": 1},
            {"checkpoint.best.monitor": "val_loss", "checkpoint.best.mode": "min", "checkpoint.best.load_at_end": True,
             "checkpoint.keep_last": 1},
        ),
        (
            {"load_best_model_at_end": True, "metric_for_best_model": "val_acc"},
            {"checkpoint.best.monitor": "val_acc", "checkpoint.best.mode": "max", "checkpoint.best.load_at_end": True},
        ),
        (
            {"early_stopping_patience": 2, "early_stopping_threshold": 0.01},
            {"early_stopping.patience": 2, "early_stopping.min_delta": 0.01, "early_stopping.monitor": "val_loss", "early_stopping.mode": "min"},
        ),
        (
            {"early_stopping_patience": 2, "metric_for_best_model": "val_accuracy"},
            {"early_stopping.patience": 2, "early_stopping.monitor": "val_accuracy", "early_stopping.mode": "max"},
        ),
        ({"output_dir": "runs/mine", "seed": 7}, {"trainer.default_root_dir": "runs/mine", "seed": 7}),
        ({"report_to": "csv"}, {"metrics": {}, "csv": {}}),
        ({"report_to": "none"}, {}),
        ({"use_cpu": True, "backend": "gloo"}, {"trainer.accelerator": "cpu"}),
        ({"backend": "nccl"}, {"trainer.accelerator": "gpu"}),
        ({"world_size": 2}, {"trainer.devices": 2, "ddp": {}}),
        ({"world_size": 1, "local_rank": -1}, {"trainer.devices": 1}),
    ],
)  # fmt: skip
def test_each_argument_stands_for_a_section(args: dict[str, Any], expected: dict[str, Any]) -> None:
    length = {} if "trainer.max_steps" in expected else THREE_EPOCHS
    assert stands_for(args) == {**length, **expected}


def test_every_argument_is_tried_above() -> None:
    cases = test_each_argument_stands_for_a_section.pytestmark[0].args[1]  # type: ignore[attr-defined]
    tried = {name for args, _ in cases for name in args} | {"greater_is_better"}
    assert tried == {field.name for field in dataclasses.fields(tfpl.TrainingArguments)}


@pytest.mark.parametrize(
    ("args", "sections", "expected"),
    [
        ({"learning_rate": 0.1}, {"optimizer": {"name": "lamb", "lr": 0.2}}, {}),
        ({"learning_rate": 0.1}, {"optimizer": {"name": "lamb"}}, {"optimizer.lr": 0.1}),
        ({"optim": "sgd"}, {"optimizer": {"name": "lamb"}}, {}),
        ({"warmup_steps": 5}, {"schedule": {"name": "cosine"}}, {"schedule.warmup_steps": 5}),
        ({"seed": 1}, {"seed": 2}, {}),
        ({"save_steps": 9}, {"checkpoint": {"every_n_steps": 3}}, {}),
        ({"save_steps": 9}, {"checkpoint": None}, {}),
        ({"train_batch_size": 9}, {"data": {"class_path": "tiny.Data", "init_args": {"batch_size": 2}}}, {}),
        ({"eval_steps": 5}, {"accumulate": {"batches": 3}}, {"trainer.val_check_interval": 15, "trainer.check_val_every_n_epoch": None}),
        ({"gradient_sync_frequency": 3}, {"accumulate": {"batches": 3}}, {}),
        ({"eval_steps": 5, "gradient_accumulation_steps": 2}, {}, {"accumulate.batches": 2, "trainer.val_check_interval": 10, "trainer.check_val_every_n_epoch": None}),
        ({"gradient_sync_frequency": 2, "world_size": 2}, {"accumulate": {"batches": 4}}, {"trainer.devices": 2, "ddp.gradient_sync_every": 2}),
        ({"gradient_sync_frequency": 1, "gradient_accumulation_steps": 2}, {"ddp": {}}, {"accumulate.batches": 2, "ddp.gradient_sync_every": 1}),
        ({"gradient_sync_frequency": 1}, {"accumulate": {"batches": 2}, "ddp": {"gradient_sync_every": 2}}, {}),
        ({"gradient_sync_frequency": 2, "world_size": 2}, {"accumulate": {"batches": 2}, "zero": {"stage": 2}}, {"trainer.devices": 2}),
        ({"world_size": 2}, {"zero": {"stage": 3}}, {"trainer.devices": 2}),
        ({"world_size": 2}, {"zero": None}, {"trainer.devices": 2, "ddp": {}}),
        ({"world_size": 2}, {"ddp": {"bucket_size_mb": 1}}, {"trainer.devices": 2}),
        ({"world_size": 2}, {"ddp": None}, {"trainer.devices": 2}),
    ],
)  # fmt: skip
def test_written_sections_win(args: dict[str, Any], sections: dict[str, Any], expected: dict[str, Any]) -> None:
    assert stands_for(args, **sections) == {**THREE_EPOCHS, **expected}


@pytest.mark.parametrize("trainer", [{"max_steps": 5}, {"max_epochs": 2}, {"max_time": "00:01:00:00"}])
def test_how_long_is_said_once(trainer: dict[str, Any]) -> None:
    """A written length is the whole of it: an argument beside it would end the run before."""
    assert stands_for({"max_steps": 3, "num_epochs": 1}, trainer=trainer) == {}


def test_ranks_over_nodes() -> None:
    assert stands_for({"world_size": 8}, trainer={"num_nodes": 2, "max_steps": 1}) == {"trainer.devices": 4, "ddp": {}}
    assert stands_for({"world_size": 2}, trainer={"devices": [0, 1], "max_steps": 1}) == {"ddp": {}}


@pytest.mark.parametrize(
    ("args", "sections", "complaint"),
    [
        ({"fp16": True, "bf16": True}, {}, "args: fp16 and bf16 are both true; choose one"),
        ({"fp16_loss_scale": 8.0}, {}, "args: fp16_loss_scale is given without fp16; add `fp16: true`, or remove it"),
        ({"fp16_opt_level": "O2", "bf16": True}, {}, "args: fp16_opt_level is given without fp16"),
        ({"eval_steps": 9, "max_steps": 8}, {}, "args: eval_steps = 9 is never reached in max_steps = 8; lower or remove it"),
        ({"greater_is_better": True}, {}, "args: greater_is_better is for early stopping and load_best_model_at_end; add"),
        ({"early_stopping_threshold": 0.1}, {}, "args: early_stopping_threshold is for early stopping; add"),
        ({"load_best_model_at_end": True}, {"checkpoint": {"best": {"monitor": None}}}, "checkpoint.best: load_at_end needs a metric"),
        ({"backend": "mpi"}, {}, "args: backend = mpi: not yet; remove it: ranks talk through gloo on CPUs and nccl on"),
        ({"backend": "gloo"}, {}, "args: backend = gloo is what ranks on CPUs use, on GPUs not yet; add `use_cpu: true`"),
        ({"backend": "nccl"}, {"trainer": {"accelerator": "cpu"}}, "args: backend = nccl is for GPUs, and trainer.accelerator is 'cpu'"),
        ({"backend": "nccl", "use_cpu": True}, {}, "args: backend = nccl is for GPUs, and use_cpu is true"),
        ({"report_to": ""}, {}, "args: report_to = '' is no section that logs; write names as `csv`"),
        ({"report_to": ["csv", "trainer"]}, {}, "args: report_to = 'trainer' is no section that logs"),
        ({"local_rank": 0}, {}, "args: local_rank = 0: the launcher tells each process its rank"),
        ({"gradient_sync_frequency": 8}, {"accumulate": {"batches": 4}}, "args: gradient_sync_frequency = 8 is never reached: gradients are averaged at"),
        ({"gradient_sync_frequency": 1}, {"accumulate": {"batches": 4}}, "args: gradient_sync_frequency = 1 is for several ranks; add world_size, or"),
        (
            {"gradient_sync_frequency": 1}, {"accumulate": {"batches": 4}, "zero": {"stage": 2}},
            "args: gradient_sync_frequency = 1 is for `ddp`: zero.stage 1 reduces gradients once a step",
        ),
        ({"world_size": 3}, {"trainer": {"num_nodes": 2}}, "args: world_size = 3 is not a multiple of trainer.num_nodes = 2"),
        ({"world_size": 3}, {"trainer": {"devices": 2}}, "args: world_size = 3, but trainer.devices = 2 on 1 node(s)"),
        ({"num_epochs": 0}, {}, "args: num_epochs must be at least 1, but is 0"),
        ({"max_steps": 1.5}, {}, "args.max_steps = 1.5: expected an integer or null"),
        ({"learnig_rate": 0.1}, {}, "args.learnig_rate: no such key; did you mean 'learning_rate'?"),
        ({"optim": "adamw_bnb_8bit"}, {}, "optimizer.name = 'adamw_bnb_8bit': no such optimizer"),
        ({"adam_beta1": 0.5}, {"optimizer": {"name": "sgd"}}, "optimizer.betas: no such key"),
    ],
)  # fmt: skip
def test_what_cannot_be_is_refused_in_one_line(args: dict[str, Any], sections: dict[str, Any], complaint: str) -> None:
    with pytest.raises(RecipeError) as caught:
        plan(args, **sections)
    message = str(caught.value)
    assert complaint in message
    assert "\n" not in message


def test_an_error_of_a_section_names_the_argument(write: Any) -> None:
    """Where the section is read, and where the data module is built."""
    path = write("model: {class_path: tiny.Composable}\nargs:\n  seed: 1\n  warmup_steps: -5\n")
    with pytest.raises(RecipeError, match=r"^recipe\.yaml:2 \(args\): schedule: warmup_steps must not be"):
        make_plan(Recipe.read(path, [], {}))
    path = write("model: {class_path: tiny.Composable}\ndata: {class_path: tiny.Data}\nargs:\n  eval_batch_size: 5\n")
    with pytest.raises(
        RecipeError,
        match=r"^recipe\.yaml:4 \(args\.eval_batch_size\): data\.init_args\.val_batch_size: Data takes no such argument; "
        r"did you mean 'batch_size'",
    ):
        assemble(path, ["optimizer={name: adamw}"])
    path = write("model: {class_path: tiny.Composable}\nargs: {train_batch_size: 5}\n")
    with pytest.raises(
        RecipeError, match=r"^recipe\.yaml:2 \(args\.train_batch_size\): the recipe has no section `data`"
    ):
        make_plan(Recipe.read(path, [], {}))


def test_explain_shows_which_argument_a_value_is_from(write: Any, command: Any) -> None:
    path = write("model: {class_path: tiny.Composable}\nargs:\n  learning_rate: 0.5\n  max_steps: 3\n")
    code, out, _ = command("explain", path, "--args.weight_decay=0.25")
    assert code == 0
    rows = {line.split()[0]: " ".join(line.split()[1:]) for line in out.splitlines() if line.strip()}
    assert rows["optimizer.lr"] == "0.5 recipe.yaml:3 (args.learning_rate)"
    assert rows["optimizer.weight_decay"] == "0.25 --args.weight_decay (args.weight_decay)"
    assert rows["trainer.max_steps"] == "3 recipe.yaml:4 (args.max_steps)"


def test_arguments_train_what_the_sections_train() -> None:
    """The same run, said in two ways: every weight has the same bits."""
    cpu = {"accelerator": "cpu"}
    args = {"max_steps": 9, "train_batch_size": 8, "learning_rate": 0.1, "lr_scheduler_type": "cosine", "warmup_steps": 2, "seed": 3, "save_steps": 4, "output_dir": "short"}  # fmt: skip
    short = assemble({**BASE, "trainer": cpu, "args": args})
    long = assemble(
        {
            "seed": 3,
            "model": {"class_path": "tiny.Composable"},
            "data": {"class_path": "tiny.Data", "init_args": {"batch_size": 8}},
            "trainer": {**cpu, "max_steps": 9, "default_root_dir": "long"},
            "optimizer": {"name": "adamw", "lr": 0.1},
            "schedule": {"name": "cosine", "warmup_steps": 2},
        }
    )
    for run in (short, long):
        run.fit()
    assert short.module.state_dict().keys() == long.module.state_dict().keys()
    for name, weights in short.module.state_dict().items():
        assert weights.equal(long.module.state_dict()[name])
    assert sorted(path.name for path in (short.folder / "checkpoints").iterdir()) == ["step-00000008", "step-00000009"]
    assert isinstance(short.datamodule, tiny.Data)


def test_the_seeds_example_trains_with_every_section() -> None:
    """Its values made small: clipping, accumulation, precision and early stopping each leave evidence."""
    args = {
        "num_epochs": 3, "train_batch_size": 4, "learning_rate": 1e-2, "warmup_steps": 2, "gradient_accumulation_steps": 2,
        "max_grad_norm": 1.0, "logging_steps": 1, "eval_steps": 2, "save_steps": 4, "report_to": "csv", "use_cpu": True,
        "bf16": True, "early_stopping_patience": 9, "early_stopping_threshold": 1e-6, "output_dir": "seeds",
    }  # fmt: skip
    run = assemble({**BASE, "args": args})
    run.fit()
    evidence = run.probe()
    assert set(evidence) == {
        "accumulate", "args", "checkpoint", "clip", "csv", "early_stopping", "metrics", "optimizer.adamw", "precision",
        "schedule.linear",
    }  # fmt: skip
    assert all(evidence.values())
    assert run.trainer.global_step == 12  # 32 samples, 4 in a batch, 2 batches in a step, 3 epochs
    assert run.trainer.val_check_interval == 4
