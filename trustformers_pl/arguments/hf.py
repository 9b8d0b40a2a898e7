"""From transformers' `TrainingArguments`, as its `to_json_string()` writes them, to sections of a recipe."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

from trustformers_pl.arguments.draft import Draft
from trustformers_pl.arguments.given import Given
from trustformers_pl.arguments.hf_left import leave_rest
from trustformers_pl.arguments.hf_optimization import put_optimizer, put_schedule
from trustformers_pl.arguments.hf_sharding import put_sharding
from trustformers_pl.arguments.standing_for import beside_the_best, mode_of

if TYPE_CHECKING:
    from collections.abc import Mapping

RATIO = "is a fraction of all steps, whose number is not in this file; give optimizer steps"


def from_hf(values: Mapping[str, Any], *, devices: int = 1) -> Draft:
    """The sections that a training with these arguments has.

    Args:
        values: Arguments by name, of transformers 4 or 5; those that are missing have transformers' defaults.
        devices: Ranks that will train: transformers counts batches per device, a data module over all ranks.

    Returns:
        A draft whose origins are names of arguments. What it leaves are the values that are not transformers' defaults
        and have no counterpart.

    Raises:
        RecipeError: A value has another type than its argument.
    """
    draft = Draft()
    given = Given(values, draft)
    draft.put("seed", given.whole("seed", 42), "seed")
    steps = _put_length(draft, given)
    window = _put_batches(draft, given, devices)
    _put_place(draft, given)
    put_optimizer(draft, given)
    put_schedule(draft, given)
    _put_precision(draft, given)
    _put_logging(draft, given, steps)
    _put_evaluation(draft, given, steps, window)
    _put_saving(draft, given, steps)
    _put_ranks(draft, given, devices)
    leave_rest(draft, given)
    return draft


def _put_length(draft: Draft, given: Given) -> int | None:
    """Steps win over epochs; returns their number, where it is known."""
    steps, epochs = given.whole("max_steps", -1), given.number("num_train_epochs", 3.0)
    if steps > 0:
        draft.put("trainer.max_steps", steps, "max_steps")
        return steps
    if epochs == int(epochs):
        draft.put("trainer.max_epochs", int(epochs), "num_train_epochs")
    else:
        draft.leave("num_train_epochs", epochs, "epochs are whole here; give the steps as `trainer.max_steps`")
    return None


def _put_batches(draft: Draft, given: Given, devices: int) -> int:
    """Batches of all ranks; returns how many make an optimizer step."""
    for name, old, key in (
        ("per_device_train_batch_size", "per_gpu_train_batch_size", "batch_size"),
        ("per_device_eval_batch_size", "per_gpu_eval_batch_size", "val_batch_size"),
    ):
        size = given.whole(name, given.whole(old, 8))
        draft.put(f"data.init_args.{key}", size * devices, name)
    if workers := given.whole("dataloader_num_workers", 0):
        draft.put("data.init_args.num_workers", workers, "dataloader_num_workers")
    if given.flag("dataloader_drop_last"):
        draft.put("data.init_args.drop_last", True, "dataloader_drop_last")
    if given.inner("accelerator_config").flag("split_batches") or given.flag("split_batches"):
        draft.leave("split_batches", True, "the sizes in this file are then those over all devices: check batch_size")
    window = given.whole("gradient_accumulation_steps", 1)
    if window > 1:
        draft.put("accumulate.batches", window, "gradient_accumulation_steps")
    if norm := given.number("max_grad_norm", 1.0):
        draft.put("clip.norm", norm, "max_grad_norm")
    return window


def _put_place(draft: Draft, given: Given) -> None:
    if folder := given.take("output_dir"):
        draft.put("trainer.default_root_dir", folder, "output_dir")
    if given.flag("use_cpu") or given.flag("no_cuda"):
        draft.put("trainer.accelerator", "cpu", "use_cpu")
    if given.flag("full_determinism"):
        draft.put("trainer.deterministic", True, "full_determinism")


def _put_precision(draft: Draft, given: Given) -> None:
    for dtype in ("bf16", "fp16"):
        if given.flag(dtype):
            draft.put("precision.dtype", dtype, dtype)
    level = given.take("fp16_opt_level", "O1")
    if "apex" in (given.take("half_precision_backend"), given.take("fp16_backend")) and draft.has("precision"):
        draft.put("precision.opt_level", level, "fp16_opt_level")


def _put_logging(draft: Draft, given: Given, steps: int | None) -> None:
    """What transformers keeps in `trainer_state.json` is the table of `csv`."""
    strategy, every = given.word("logging_strategy", "steps"), _steps(draft, given, "logging", 500, steps)
    trackers = given.take("report_to", [])
    trackers = [trackers] if isinstance(trackers, str) else trackers
    if strategy == "no":
        given.ignore("logging_first_step", "disable_tqdm")
    else:
        draft.put("csv", {}, "logging_strategy")
        draft.put("metrics", {}, "logging_strategy")
        if strategy == "epoch":
            draft.leave("logging_strategy", strategy, "logged every `trainer.log_every_n_steps` optimizer steps")
        elif every is not None:
            draft.put("trainer.log_every_n_steps", every, "logging_steps")
    if not given.flag("disable_tqdm"):
        draft.put("progress", {}, "disable_tqdm")
    for name in trackers:
        if name not in ("none", "all"):
            draft.leave("report_to", name, f"the table `csv` is written; add a section `{name}` where one is installed")


def _put_evaluation(draft: Draft, given: Given, steps: int | None, window: int) -> None:
    old = given.word("evaluation_strategy", "no")
    strategy = given.word("eval_strategy", old)
    every = _steps(draft, given, "eval", given.take("logging_steps", 500), steps) if strategy == "steps" else None
    given.ignore("eval_steps")
    if strategy == "no":
        draft.put("trainer.limit_val_batches", 0, "eval_strategy")
    elif every is not None:
        draft.put("trainer.val_check_interval", every * window, "eval_steps")
        draft.put("trainer.check_val_every_n_epoch", None, "eval_strategy")


def _put_saving(draft: Draft, given: Given, steps: int | None) -> None:
    strategy, every = given.word("save_strategy", "steps"), _steps(draft, given, "save", 500, steps)
    limit = given.take("save_total_limit")
    if strategy != "no":
        if strategy == "steps" and every is not None:
            draft.put("checkpoint.every_n_steps", every, "save_steps")
        if limit is not None:
            keep = given.whole("save_total_limit", 1)
            keep = beside_the_best(keep) if given.flag("load_best_model_at_end") else keep
            draft.put("checkpoint.keep_last", keep, "save_total_limit")
        _put_best(draft, given, strategy)
        if not draft.has("checkpoint"):
            draft.put("checkpoint", {}, "save_strategy")
    if strategy == "epoch":
        draft.leave("save_strategy", strategy, "checkpoints are written by steps: `checkpoint.every_n_steps`")


def _put_best(draft: Draft, given: Given, strategy: str) -> None:
    """Transformers takes its metrics' names with or without `eval_`; validations here begin theirs with `val_`."""
    load, greater = given.flag("load_best_model_at_end"), given.take("greater_is_better")
    if not (load or strategy == "best"):
        return
    metric = str(given.take("metric_for_best_model") or "loss").removeprefix("eval_")
    draft.put("checkpoint.best.monitor", f"val_{metric}", "metric_for_best_model")
    draft.put("checkpoint.best.mode", mode_of(metric, greater), "greater_is_better")
    if strategy == "best":
        draft.put("checkpoint.every_n_steps", None, "save_strategy")
    if load:
        draft.put("checkpoint.best.load_at_end", True, "load_best_model_at_end")
    if metric != "loss":
        draft.leave("metric_for_best_model", metric, f"taken to be what validations log as `val_{metric}`")


def _put_ranks(draft: Draft, given: Given, devices: int) -> None:
    """FSDP, which the section `zero` is, or DDP, of which transformers takes settings beside FSDP too."""
    sharded = put_sharding(draft, given)
    if devices > 1:
        draft.put("trainer.devices", devices, "--devices")
        if not sharded:
            draft.put("ddp", {}, "--devices")
    for name, key in (
        ("ddp_bucket_cap_mb", "bucket_size_mb"),
        ("ddp_find_unused_parameters", "find_unused_parameters"),
        ("ddp_static_graph", "static_graph"),
    ):
        value = given.take(name)
        if devices > 1 and value is not None and not sharded:
            draft.values.pop("ddp", None)
            draft.put(f"ddp.{key}", value, name)


def _steps(draft: Draft, given: Given, what: str, default: float, steps: int | None) -> int | None:
    """Optimizer steps between two of something; a number below 1 is a fraction of all steps."""
    name = f"{what}_steps"
    every = given.number(name, default)
    if every >= 1:
        return int(every)
    if steps is not None:
        return math.ceil(steps * every)
    draft.leave(name, every, RATIO)
    return None
