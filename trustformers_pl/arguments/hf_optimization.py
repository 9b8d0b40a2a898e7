"""transformers' optimizers and schedules, by their names and arguments, as the sections that compute the same."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from trustformers_pl.arguments.names import OPTIMIZERS, SCHEDULES
from trustformers_pl.errors import RecipeError

if TYPE_CHECKING:
    from collections.abc import Callable

    from trustformers_pl.arguments.draft import Draft
    from trustformers_pl.arguments.given import Given

CARRIED = ("adamw", "adafactor", "sgd")
LEARNING_RATE = 5e-5
"""transformers' default."""


def put_optimizer(draft: Draft, given: Given) -> None:
    """The section `optimizer`, unless there is none that computes the same."""
    optim = given.word("optim", "adamw_torch")
    name = OPTIMIZERS.get(optim, optim)
    lr, decay = given.number("learning_rate", LEARNING_RATE), given.number("weight_decay", 0.0)
    betas = [given.number("adam_beta1", 0.9), given.number("adam_beta2", 0.999)]
    eps, extra = given.number("adam_epsilon", 1e-8), given.take("optim_args")
    if name not in CARRIED:
        draft.leave("optim", optim, "no optimizer here computes the same; write a section `optimizer`")
        return
    draft.put("optimizer.name", name, "optim")
    draft.put("optimizer.lr", lr, "learning_rate")
    draft.put("optimizer.weight_decay", decay, "weight_decay")
    if name == "adamw":
        draft.put("optimizer.betas", betas, "adam_beta1, adam_beta2")
        draft.put("optimizer.eps", eps, "adam_epsilon")
    if extra and name == "sgd":
        _put_sgd(draft, extra)
    elif extra:
        draft.leave("optim_args", extra, f"{name} here takes none of them")


def _put_sgd(draft: Draft, extra: str) -> None:
    for pair in extra.replace(" ", "").split(","):
        key, _, value = pair.partition("=")
        if key == "nesterov":
            draft.put("optimizer.nesterov", value.lower() in ("true", "1", "yes"), "optim_args")
        elif key in ("momentum", "dampening"):
            draft.put(f"optimizer.{key}", _number(key, value), "optim_args")
        else:
            draft.leave("optim_args", pair, "sgd takes momentum, dampening and nesterov")


def put_schedule(draft: Draft, given: Given) -> None:
    """The section `schedule`, unless there is none that computes the same."""
    kind = given.word("lr_scheduler_type", "linear")
    arguments = given.inner("lr_scheduler_kwargs")
    steps, ratio = given.number("warmup_steps", 0), given.number("warmup_ratio", 0)
    if kind not in SHAPES:
        draft.leave("lr_scheduler_type", kind, "no schedule here has this curve; write a section `schedule`")
        arguments.ignore(*arguments.values)
        return
    draft.put("schedule.name", SCHEDULES.get(kind, kind), "lr_scheduler_type")
    if kind == "constant":
        if steps or ratio:
            draft.leave("warmup_steps", steps or ratio, "transformers' `constant` has no warm-up either")
    elif steps >= 1:
        draft.put("schedule.warmup_steps", int(steps), "warmup_steps")
    elif steps or ratio:  # below 1, a fraction of all steps: transformers 5
        draft.put("schedule.warmup_ratio", steps or ratio, "warmup_steps" if steps else "warmup_ratio")
    SHAPES[kind](draft, arguments, given.number("learning_rate", LEARNING_RATE))
    if kind == "warmup_stable_decay" and (steps or ratio) and (floor := draft.values["schedule.min_ratio"]):
        why = "the decay ends there; the warm-up starts at 0 here, and there in transformers"
        draft.leave(f"{arguments.prefix}min_lr_ratio", floor, why)
    for name, value in arguments.rest.items():
        draft.leave(f"{arguments.prefix}{name}", value, f"the schedule {draft.values['schedule.name']} has no such key")


def _plain(draft: Draft, given: Given, lr: float) -> None:
    del draft, given, lr


def _cosine(draft: Draft, given: Given, lr: float) -> None:
    del lr
    if (cycles := given.number("num_cycles", 0.5)) != 0.5:
        draft.leave(f"{given.prefix}num_cycles", cycles, "half a wave is what there is here")


def _cosine_to_a_floor(draft: Draft, given: Given, lr: float) -> None:
    _cosine(draft, given, lr)
    floor = given.number("min_lr", 0.0) / lr
    draft.put("schedule.min_ratio", given.number("min_lr_rate", floor), "lr_scheduler_kwargs")


def _polynomial(draft: Draft, given: Given, lr: float) -> None:
    draft.put("schedule.power", given.number("power", 1.0), "lr_scheduler_kwargs")
    draft.put("schedule.min_ratio", given.number("lr_end", 1e-7) / lr, "lr_scheduler_kwargs")


def _wsd(draft: Draft, given: Given, lr: float) -> None:
    draft.put("schedule.decay_steps", given.whole("num_decay_steps", 0), "lr_scheduler_kwargs")
    draft.put("schedule.decay_type", given.word("decay_type", "cosine"), "lr_scheduler_kwargs")
    draft.put("schedule.min_ratio", given.number("min_lr_ratio", 0.0), "lr_scheduler_kwargs")
    if (warmup := given.word("warmup_type", "linear")) != "linear":
        draft.leave(f"{given.prefix}warmup_type", warmup, "warm-ups are linear")
    if (stable := given.take("num_stable_steps")) is not None:
        draft.leave(f"{given.prefix}num_stable_steps", stable, "follows from the run's length and `decay_steps`")
    _cosine(draft, given, lr)


SHAPES: dict[str, Callable[[Draft, Given, float], None]] = {
    "linear": _plain,
    "constant": _plain,
    "constant_with_warmup": _plain,
    "cosine": _cosine,
    "cosine_with_min_lr": _cosine_to_a_floor,
    "polynomial": _polynomial,
    "warmup_stable_decay": _wsd,
}


def _number(name: str, value: Any) -> float:
    try:
        return float(value)
    except ValueError:
        raise RecipeError(f"optim_args: {name} = {value!r}: expected a number") from None
