"""What a DeepSpeed configuration switches on that has no counterpart."""

from __future__ import annotations

from typing import TYPE_CHECKING

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


def leave_rest(draft: Draft, given: Given) -> None:
    """Note every key that was not asked for and is switched on."""
    given.ignore(*SAY_NOTHING)
    for name, value in given.rest.items():
        if value and not (isinstance(value, dict) and value.get("enabled") is False):
            draft.leave(name, value, WHY.get(name, NO_COUNTERPART))
