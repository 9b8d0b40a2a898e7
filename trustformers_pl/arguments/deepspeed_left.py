"""What a DeepSpeed configuration switches on that has no counterpart."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from trustformers_pl.arguments.draft import Draft
    from trustformers_pl.arguments.given import Given

NO_COUNTERPART = "has no counterpart here"
MODULE = "not yet; recompute activations in your module (torch.utils.checkpoint)"
TRACKER = "the section `csv` writes a table; add a section of this name where one is installed"
WHY = {
    "activation_checkpointing": MODULE,
    "amp": "write the section `precision`",
    "comet": TRACKER,
    "comms_logger": NO_COUNTERPART,
    "csv_monitor": TRACKER,
    "pipeline": "not yet: pipeline parallelism",
    "tensor_parallel": "not yet: tensor parallelism",
    "tensorboard": TRACKER,
    "wandb": TRACKER,
}
# What computes the same with or without.
SAY_NOTHING = (
    "dump_state", "memory_breakdown", "wall_clock_breakdown", "zero_allow_untested_optimizer",
    "zero_force_ds_cpu_optimizer",
)  # fmt: skip
SHARDED = {1: "optimizer states", 2: "optimizer states and gradients", 3: "optimizer states, gradients and parameters"}
OFFLOADED = {"offload_optimizer": "optimizer states", "offload_param": "parameters"}


def leave_zero(draft: Draft, given: Given) -> None:
    """Say which stage and which offloading were asked for."""
    stage = given.whole("stage", 0)
    asked = [f"stage {stage}, which shards {SHARDED[stage]}"] if stage in SHARDED else []
    for name, what in OFFLOADED.items():
        device = given.inner(name).word("device", "cpu") if given.values.get(name) else "none"
        if device != "none":
            asked.append(f"{what} offloaded to {device}")
    if given.values.get("cpu_offload") is True:
        asked.append("optimizer states offloaded to cpu")
    given.ignore(*given.values)  # sizes of buckets and the like mean nothing without it
    if asked:
        why = f"not yet: ZeRO {'; '.join(asked)}. Without it (`ddp`) every rank holds all of these"
        draft.leave("zero_optimization", _short(given.values), why)


def leave_rest(draft: Draft, given: Given) -> None:
    """Note every key that was not asked for and is switched on."""
    given.ignore(*SAY_NOTHING)
    for name, value in given.rest.items():
        if value and not (isinstance(value, dict) and value.get("enabled") is False):
            draft.leave(name, value, WHY.get(name, NO_COUNTERPART))


def _short(values: Any) -> dict[str, Any]:
    return {key: values[key] for key in ("stage", *OFFLOADED) if values.get(key)}
