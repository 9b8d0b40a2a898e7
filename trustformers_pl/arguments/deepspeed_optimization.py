"""DeepSpeed's optimizers and schedulers as the sections that come closest; every difference is noted."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from trustformers_pl.arguments.draft import Draft
    from trustformers_pl.arguments.given import Given

ALL_DECAY = (
    'DeepSpeed decays all parameters it is handed, this only matrices; for the former `groups: [{match: "*", ...}]`'
)
TRUST = "the factor of a step is not limited here, as in the paper"
COMPRESSED = "compressed optimizers are not there yet; `adamw` or `lamb` compute the same without compression"
# Keys of a section -> their names in `params`, with DeepSpeed's defaults.
ADAM: dict[str, Any] = {"lr": 1e-3, "betas": [0.9, 0.999], "eps": 1e-8, "weight_decay": 0.0}
SETTINGS: dict[str, dict[str, Any]] = {
    "adam": ADAM,
    "adamw": ADAM,
    "lamb": ADAM,
    "sgd": {"lr": 1e-3, "momentum": 0.0, "dampening": 0.0, "nesterov": False, "weight_decay": 0.0},
}
# Switches of speed, which compute the same.
SAME_RESULT = ("torch_adam", "fused", "foreach", "amsgrad", "bias_correction", "adam_w_mode", "fp32_optimizer_states")


def put_optimizer(draft: Draft, given: Given) -> None:
    """The section `optimizer`, unless there is none that computes the same."""
    kind = given.word("type", "")
    parameters = given.inner("params")
    given.ignore("legacy_fusion")
    name = _name(kind, parameters)
    if not kind or name not in SETTINGS:
        if kind:
            why = COMPRESSED if kind.startswith(("onebit", "zeroone")) else "no optimizer here computes the same"
            draft.leave("optimizer.type", given.values["type"], why)
        parameters.ignore(*parameters.values)
        return
    draft.put("optimizer.name", name, "optimizer.type")
    for key, default in SETTINGS[name].items():
        if key in parameters or key in ("lr", "weight_decay"):
            value = parameters.take(key, default)
            if parameters.values.get(key) != "auto":
                draft.put(f"optimizer.{key}", value, f"optimizer.params.{key}")
    _leave_differences(draft, parameters, name)


def _name(kind: str, parameters: Given) -> str:
    """DeepSpeed's `Adam` is AdamW, unless it is told otherwise."""
    return "adamw" if kind == "adam" and parameters.flag("adam_w_mode", True) else kind


def _leave_differences(draft: Draft, parameters: Given, name: str) -> None:
    if parameters.values.get("weight_decay") not in (None, 0, 0.0, "auto"):
        draft.leave("optimizer.params.weight_decay", parameters.values["weight_decay"], ALL_DECAY)
    for switch, usual in (("amsgrad", False), ("bias_correction", True)):
        if parameters.flag(switch, usual) is not usual:
            draft.leave(f"optimizer.params.{switch}", not usual, "has no counterpart here")
    if name == "lamb":
        low, high = parameters.number("min_coeff", 0.01), parameters.number("max_coeff", 10.0)
        draft.leave("optimizer.params.min_coeff, max_coeff", [low, high], TRUST)
    parameters.ignore(*SAME_RESULT)
    for key, value in parameters.rest.items():
        draft.leave(f"{parameters.prefix}{key}", value, f"the optimizer {name} has no such key")


def put_schedule(draft: Draft, given: Given) -> None:
    """The section `schedule`, unless there is none with this curve."""
    kind = given.take("type")
    parameters = given.inner("params")
    if kind not in CURVES:
        if kind:
            draft.leave("scheduler.type", kind, "no schedule here has this curve; write a section `schedule`")
        parameters.ignore(*parameters.values)
        return
    draft.put("schedule.name", CURVES[kind], "scheduler.type")
    steps = parameters.whole("warmup_num_steps", 1000)
    if parameters.values.get("warmup_num_steps") != "auto":
        draft.put("schedule.warmup_steps", max(2, steps), "scheduler.params.warmup_num_steps")
    if kind != "WarmupLR" and parameters.take("total_num_steps") is not None:
        draft.put(
            "schedule.num_training_steps", parameters.whole("total_num_steps", 1), "scheduler.params.total_num_steps"
        )
    if kind == "WarmupCosineLR":
        draft.put("schedule.min_ratio", parameters.number("cos_min_ratio", 1e-4), "scheduler.params.cos_min_ratio")
    else:
        _put_peak(draft, parameters, kind)
    _leave_warmup(draft, parameters)


def _put_peak(draft: Draft, parameters: Given, kind: str) -> None:
    """These set the optimizer's rate themselves."""
    given = parameters.values.get("warmup_max_lr")
    peak = parameters.number("warmup_max_lr", 1e-3)
    if given != "auto" and (given is not None or kind == "WarmupDecayLR") and draft.has("optimizer"):
        draft.put("optimizer.lr", peak, "scheduler.params.warmup_max_lr")


def _leave_warmup(draft: Draft, parameters: Given) -> None:
    if (shape := parameters.word("warmup_type", "log")) != "linear":
        draft.leave(f"{parameters.prefix}warmup_type", shape, "warm-ups are linear here (DeepSpeed's default is log)")
    for name in ("warmup_min_lr", "warmup_min_ratio"):
        if least := parameters.number(name, 0.0):
            draft.leave(f"{parameters.prefix}{name}", least, "warm-ups start at 0")
    for name, value in parameters.rest.items():
        draft.leave(f"{parameters.prefix}{name}", value, "the schedule has no such key")


CURVES = {"WarmupLR": "constant", "WarmupDecayLR": "linear", "WarmupCosineLR": "cosine"}
