"""From a DeepSpeed configuration (`ds_config.json`) to sections of a recipe."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from trustformers_pl.arguments.deepspeed_batches import batch_sizes
from trustformers_pl.arguments.deepspeed_left import leave_rest
from trustformers_pl.arguments.deepspeed_optimization import put_optimizer, put_schedule
from trustformers_pl.arguments.deepspeed_zero import put_zero, zero_of
from trustformers_pl.arguments.draft import Draft
from trustformers_pl.arguments.given import Given

if TYPE_CHECKING:
    from collections.abc import Mapping

MASTER_WEIGHTS = "O2"
"""DeepSpeed trains 16-bit weights with a float32 copy in the optimizer."""
DTYPES = {"fp32": "fp32", "fp16": "fp16", "bf16": "bf16", "bfp16": "bf16"}
"""Names of types; bfloat16 had another one in older versions."""


def from_deepspeed(values: Mapping[str, Any], *, devices: int | None = None) -> Draft:
    """The sections that a training with this configuration has.

    Args:
        values: The configuration.
        devices: Ranks that will train; by default as many as its batch sizes multiply to, or 1.

    Returns:
        A draft whose origins are dotted keys of the configuration. What it leaves is everything that is switched on
        and has no counterpart, and every value `auto`.

    Raises:
        RecipeError: The batch sizes contradict each other, or a value has another type than its key.
    """
    draft = Draft()
    given = Given(values, draft, auto=True)
    ranks = _put_batches(draft, given, devices)
    put_optimizer(draft, given.inner("optimizer"))
    put_schedule(draft, given.inner("scheduler"))
    _put_half(draft, given)
    if norm := given.number("gradient_clipping", 0.0):
        draft.put("clip.norm", norm, "gradient_clipping")
    if every := given.whole("steps_per_print", 0):
        draft.put("trainer.log_every_n_steps", every, "steps_per_print")
    _put_ranks(draft, given, ranks, "train_batch_size" if devices is None else "--devices")
    leave_rest(draft, given)
    return draft


def _put_batches(draft: Draft, given: Given, devices: int | None) -> int:
    """Returns the number of ranks."""
    sizes = batch_sizes(given, devices)
    if sizes is None:
        return 1
    draft.put("data.init_args.batch_size", sizes.micro * sizes.ranks, "train_micro_batch_size_per_gpu x devices")
    if sizes.accumulated > 1:
        draft.put("accumulate.batches", sizes.accumulated, "gradient_accumulation_steps")
    if sizes.ranks > 1:
        draft.put("trainer.devices", sizes.ranks, "train_batch_size" if devices is None else "--devices")
    return sizes.ranks


def _put_ranks(draft: Draft, given: Given, ranks: int, origin: str) -> None:
    """ZeRO runs on one rank too, where it shares out nothing; what it says of ranks is then as good as on several."""
    half = draft.has("precision")
    stage = put_zero(draft, zero_of(given), bytes_of_gradient=2 if half else 4)
    section = "zero" if stage else "ddp"
    if not stage and ranks > 1:
        draft.put("ddp", {}, origin)
    if not draft.has(section):
        return
    sent = given.word("communication_data_type", "")
    if dtype := DTYPES.get(sent):
        draft.values.pop("ddp", None)
        draft.put(f"{section}.reduce_dtype", dtype, "communication_data_type")
    elif sent:
        draft.leave("communication_data_type", sent, "gradients are added up in fp32, bf16 or fp16")


def _put_half(draft: Draft, given: Given) -> None:
    bf16 = given.inner("bf16")
    if bf16.flag("enabled"):
        draft.put("precision.dtype", "bf16", "bf16.enabled")
        draft.put("precision.opt_level", MASTER_WEIGHTS, "bf16.enabled")
        _leave_switches(draft, bf16)
    fp16 = given.inner("fp16")
    if fp16.flag("enabled"):
        draft.put("precision.dtype", "fp16", "fp16.enabled")
        draft.put("precision.opt_level", MASTER_WEIGHTS, "fp16.enabled")
        _put_loss_scale(draft, fp16)
        _leave_switches(draft, fp16)


def _put_loss_scale(draft: Draft, fp16: Given) -> None:
    """A loss scale of 0 is a dynamic one; it doubles and halves."""
    scale = fp16.number("loss_scale", 0)
    dynamic = ("initial_scale_power", "loss_scale_window", "min_loss_scale", "hysteresis", "consecutive_hysteresis")
    if scale:
        draft.put("precision.loss_scale", scale, "fp16.loss_scale")
        fp16.ignore(*dynamic)
        return
    draft.put("precision.loss_scale", "dynamic", "fp16.loss_scale")
    draft.put("precision.initial_scale", 2.0 ** fp16.number("initial_scale_power", 16), "fp16.initial_scale_power")
    draft.put("precision.growth_interval", fp16.whole("loss_scale_window", 1000), "fp16.loss_scale_window")
    draft.put("precision.min_scale", fp16.number("min_loss_scale", 1), "fp16.min_loss_scale")
    hysteresis = fp16.whole("hysteresis", 2)
    fp16.ignore("consecutive_hysteresis")
    if hysteresis != 1:
        draft.leave("fp16.hysteresis", hysteresis, "the scale is halved at the first overflow, as with hysteresis 1")


def _leave_switches(draft: Draft, half: Given) -> None:
    for name, value in half.rest.items():
        if value:
            draft.leave(f"{half.prefix}{name}", value, "has no counterpart here")
