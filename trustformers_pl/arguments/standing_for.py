"""What `args` stands for beside the sections that a recipe writes."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from trustformers_pl.arguments.draft import Draft
from trustformers_pl.arguments.names import OPTIMIZERS, SCHEDULES
from trustformers_pl.arguments.ranks import put_ranks

if TYPE_CHECKING:
    from trustformers_pl.recipe.places import Section
    from trustformers_pl.training_arguments import TrainingArguments

# Arguments that are one key of a section, under another name.
KEYS = {
    "train_batch_size": "data.init_args.batch_size",
    "eval_batch_size": "data.init_args.val_batch_size",
    "dataloader_num_workers": "data.init_args.num_workers",
    "dataloader_drop_last": "data.init_args.drop_last",
    "gradient_accumulation_steps": "accumulate.batches",
    "learning_rate": "optimizer.lr",
    "weight_decay": "optimizer.weight_decay",
    "adam_epsilon": "optimizer.eps",
    "max_grad_norm": "clip.norm",
    "warmup_steps": "schedule.warmup_steps",
    "warmup_ratio": "schedule.warmup_ratio",
    "logging_steps": "trainer.log_every_n_steps",
    "save_steps": "checkpoint.every_n_steps",
    "save_total_limit": "checkpoint.keep_last",
    "early_stopping_patience": "early_stopping.patience",
    "early_stopping_threshold": "early_stopping.min_delta",
    "output_dir": "trainer.default_root_dir",
    "seed": "seed",
}
# What another argument, or its own value, makes say nothing.
SAYS_NOTHING = {"gradient_accumulation_steps": 1, "max_grad_norm": 0}
HOW_LONG = ("max_epochs", "max_steps", "max_time")
DEFAULT_EPOCHS = 3
# Sections of which other arguments say something, or that cannot be there by name alone.
NO_TRACKERS = frozenset({key.partition(".")[0] for key in KEYS.values()} | {"args", "model", "precision", "version"})


def standing_for(args: TrainingArguments, written: Section) -> Draft:
    """The sections that `args` stands for.

    Args:
        args: The arguments.
        written: The recipe's sections: some arguments depend on them, and those that would contradict them are left.

    Returns:
        A draft whose origins are names of arguments.

    Raises:
        ValueError: Ranks or their backend contradict the section `trainer`, or `report_to` names no section that logs.
    """
    draft = Draft()
    for name, value in args.given().items():
        if name in KEYS and SAYS_NOTHING.get(name) != value:
            draft.put(KEYS[name], value, name)
    if args.warmup_steps and "schedule.warmup_ratio" in draft.values:
        del draft.values["schedule.warmup_ratio"]
    _put_length(draft, args, written.section("trainer"))
    _put_optimizer(draft, args, written)
    _put_schedule(draft, args, written)
    _put_precision(draft, args)
    window = _window(args, written)
    _put_validation(draft, args, written.section("trainer"), window)
    _put_early_stopping(draft, args)
    _put_best(draft, args)
    for name in () if args.report_to is None else _trackers(args.report_to):
        if name in NO_TRACKERS or not name.isidentifier():
            raise ValueError(f"report_to = {name!r} is no section that logs; write names as `csv`")
        draft.put(name, {}, "report_to")
    put_ranks(draft, args, written, window)
    return draft


def _put_length(draft: Draft, args: TrainingArguments, trainer: Section) -> None:
    if any(trainer.leaf(key) is not None for key in HOW_LONG):
        return  # how long is one thing, whichever way it is said
    if args.max_steps is not None:
        draft.put("trainer.max_steps", args.max_steps, "max_steps")
    else:
        draft.put("trainer.max_epochs", args.num_epochs or DEFAULT_EPOCHS, "num_epochs")


def _put_optimizer(draft: Draft, args: TrainingArguments, written: Section) -> None:
    if args.adam_beta1 is not None or args.adam_beta2 is not None:
        betas = [0.9 if args.adam_beta1 is None else args.adam_beta1]
        betas.append(0.999 if args.adam_beta2 is None else args.adam_beta2)
        draft.put("optimizer.betas", betas, "adam_beta2" if args.adam_beta1 is None else "adam_beta1")
    _put_name(draft, "optimizer", args.optim, "optim", OPTIMIZERS, "adamw", written)


def _put_schedule(draft: Draft, args: TrainingArguments, written: Section) -> None:
    _put_name(draft, "schedule", args.lr_scheduler_type, "lr_scheduler_type", SCHEDULES, "linear", written)


def _put_name(
    draft: Draft, slot: str, given: str | None, argument: str, aliases: dict[str, str], default: str, written: Section
) -> None:
    """The slot's implementation: the one named, or the default where settings of it are all that is given."""
    if given is not None:
        draft.put(f"{slot}.name", aliases.get(given, given), argument)
    elif draft.has(slot) and written.section(slot).leaf("name") is None:
        origin = next(draft.origins[key] for key in draft.values if key.startswith(f"{slot}."))
        draft.put(f"{slot}.name", default, origin)


def _put_precision(draft: Draft, args: TrainingArguments) -> None:
    if args.bf16:
        draft.put("precision.dtype", "bf16", "bf16")
    if args.fp16:
        draft.put("precision.dtype", "fp16", "fp16")
    if args.fp16_opt_level is not None:
        draft.put("precision.opt_level", args.fp16_opt_level, "fp16_opt_level")
    if args.fp16_loss_scale is not None:
        draft.put("precision.loss_scale", args.fp16_loss_scale, "fp16_loss_scale")


def _window(args: TrainingArguments, written: Section) -> int:
    """Batches of an optimizer step; what is no number is refused where its section is read."""
    found = written.section("accumulate").leaf("batches")
    return found if type(found) is int else args.gradient_accumulation_steps or 1


def _put_validation(draft: Draft, args: TrainingArguments, trainer: Section, window: int) -> None:
    """Lightning counts batches, and over epochs only where it does not count epochs."""
    if args.eval_steps is None or trainer.leaf("val_check_interval") is not None:
        return
    draft.put("trainer.val_check_interval", args.eval_steps * window, "eval_steps")
    draft.put("trainer.check_val_every_n_epoch", None, "eval_steps")


def _put_early_stopping(draft: Draft, args: TrainingArguments) -> None:
    if args.early_stopping_patience is None:
        return
    _put_metric(draft, "early_stopping", args)


def _put_best(draft: Draft, args: TrainingArguments) -> None:
    if not args.load_best_model_at_end:
        return
    _put_metric(draft, "checkpoint.best", args)
    draft.put("checkpoint.best.load_at_end", True, "load_best_model_at_end")
    if args.save_total_limit is not None:
        draft.put("checkpoint.keep_last", beside_the_best(args.save_total_limit), "save_total_limit")


def beside_the_best(limit: int) -> int:
    """How many of the last stay where transformers keeps `limit` in all, the best among them: at least one."""
    return max(limit - 1, 1)


def _put_metric(draft: Draft, key: str, args: TrainingArguments) -> None:
    metric = args.metric_for_best_model or "val_loss"
    draft.put(f"{key}.monitor", metric, "metric_for_best_model")
    draft.put(f"{key}.mode", mode_of(metric, args.greater_is_better), "greater_is_better")


def mode_of(metric: str, greater_is_better: bool | None) -> str:
    """`max` or `min`; where nothing is said, by the metric's name, as in transformers."""
    rises = not metric.endswith("loss") if greater_is_better is None else greater_is_better
    return "max" if rises else "min"


def _trackers(report_to: Any) -> list[str]:
    names = [report_to] if isinstance(report_to, str) else list(report_to)
    names = [name for name in names if name != "none"]
    return ["metrics", *names] if names else []
