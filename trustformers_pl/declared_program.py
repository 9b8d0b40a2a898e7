"""Whether a recipe is a program, and whose."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from trustformers_pl.errors import RefusedError
from trustformers_pl.parts import build
from trustformers_pl.plugins import Plugin, hook_caller
from trustformers_pl.refusals import refusals
from trustformers_pl.traits import Slot

if TYPE_CHECKING:
    from trustformers_pl.assembly import Live
    from trustformers_pl.plan import Plan
    from trustformers_pl.program import Program


@dataclass(frozen=True)
class DeclaredProgram:
    """A program, and where it comes from.

    Attributes:
        plan: The recipe's.
        plugin: The one that claims `program`.
        declared: What it answered: a part, or the program.
    """

    plan: Plan
    plugin: Plugin
    declared: Any

    @property
    def section(self) -> str:
        """The section that made the program, which no child has."""
        return self.plugin.name.partition(".")[0]

    def build(self) -> Program:
        """The program."""
        program: Program = build(self.declared, {})
        return program


def declared_program(plan: Plan, live: Live | None = None) -> DeclaredProgram | None:
    """The program of a recipe, or None where it is one training.

    Only the program's own plugin is checked: what the other sections need may be given by a child's.

    Raises:
        RefusedError: Two plugins claim `program`, or the one that does refuses this run.
        PluginError: A plugin implements the hook without claiming the slot.
    """
    claimants = [plugin for plugin in plan.plugins if Slot.PROGRAM in plugin.traits(plugin.config).claims]
    if not claimants:
        refusals(plan, frozenset(), subjects=frozenset())  # compares hooks with claims
        return None
    _refuse(plan, claimants, live)
    answer = plan.hook.program(plan=plan)
    return None if answer is None else DeclaredProgram(plan, claimants[0], answer)


def _refuse(plan: Plan, claimants: list[Plugin], live: Live | None) -> None:
    names = frozenset(plugin.name for plugin in claimants)
    lines = refusals(plan, frozenset(), subjects=names)
    lines += [line for lines in hook_caller(claimants).hook.check(plan=plan) for line in lines or ()]
    given = [name for name in ("model", "data", "optimizer") if live and getattr(live, name) is not None]
    if given:
        lines.append(
            f"{plan.place(claimants[0].name)}: {claimants[0].name} makes child runs in processes of their own, which "
            f"cannot be given objects ({', '.join(given)}); describe these in sections of the recipe"
        )
    if lines:
        raise RefusedError("\n".join(lines))
