"""Whether a recipe saves its run, for features that go back to checkpoints. No torch is imported."""

from __future__ import annotations

from typing import TYPE_CHECKING

from trustformers_pl.traits import Slot

if TYPE_CHECKING:
    from trustformers_pl.plan import Plan


def saves(plan: Plan) -> bool:
    """Whether a feature of this run saves it."""
    return any(Slot.CHECKPOINTS in plugin.traits(plugin.config).claims for plugin in plan.plugins)


def needs_checkpoints(section: str) -> str:
    """Why a section with the policy `roll_back` is refused where nobody saves."""
    return f"{section}: policy roll_back goes back to checkpoints, and nothing saves any; add the section `checkpoint`"
