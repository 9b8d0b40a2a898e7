"""Which features cannot live in one run, and why: computed from their traits, all at once."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from trustformers_pl.errors import PluginError
from trustformers_pl.traits import (
    NEEDS_OF_HOOKS,
    OF_MODULES,
    PROVISIONS_OF_HOOKS,
    REFUSALS_OF_HOOKS,
    SLOTS_OF_HOOKS,
    unknown_words,
)

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from trustformers_pl.plan import Plan
    from trustformers_pl.traits import Refusal, Traits


def refusals(
    plan: Plan, provided: frozenset[str], module: str | None = None, subjects: frozenset[str] | None = None
) -> list[str]:
    """One line for each conflict: its place, the features, the reason, and what would work.

    Args:
        plan: The run.
        provided: Traits that its live objects and its module provide.
        module: The module's class, once it is known; before that, what modules provide is taken to be there.
        subjects: Names of the plugins whose own claims, needs and refusals count; all if not given.

    Raises:
        PluginError: A plugin's traits do not say what its hooks do, or use a word that does not exist.
    """
    traits = {plugin.name: plugin.traits(plugin.config) for plugin in plan.plugins}
    implemented = {name: _hooks(plan, name) for name in traits}
    for name, own in traits.items():
        _check_words(name, own, implemented[name])
        answers = {PROVISIONS_OF_HOOKS[hook] for hook in implemented[name] & PROVISIONS_OF_HOOKS.keys()}
        traits[name] = replace(own, provides=own.provides | answers)
    if module is None:
        provided |= frozenset(OF_MODULES)
    lines: list[str] = []
    for name in traits if subjects is None else subjects:
        own = traits[name]
        others = {other: t for other, t in traits.items() if other != name}
        implied = {NEEDS_OF_HOOKS[hook] for hook in implemented[name] & NEEDS_OF_HOOKS.keys()}
        needs = own.requires | (implied - own.provides)
        lines += [
            f"{plan.place(name)}: {line}"
            for line in (
                *_claims(name, own, others),
                *_needs(name, needs, provided.union(*(t.provides for t in others.values())), module),
                *_refused(name, (*own.refuses, *_refusals_of(implemented[name])), others),
            )
        ]
    return lines


def _hooks(plan: Plan, name: str) -> set[str]:
    """The names of the hooks that a plugin implements."""
    relay = plan.hook
    callers = {hook: getattr(relay, hook) for hook in (*SLOTS_OF_HOOKS, *NEEDS_OF_HOOKS, *PROVISIONS_OF_HOOKS)}
    return {hook for hook, caller in callers.items() if any(i.plugin_name == name for i in caller.get_hookimpls())}


def _check_words(name: str, own: Traits, hooks: set[str]) -> None:
    complaints = unknown_words(own)
    if complaints:
        raise PluginError(f"plugin {name!r}: {'; '.join(complaints)}")
    for hook in sorted(hooks & SLOTS_OF_HOOKS.keys()):
        if SLOTS_OF_HOOKS[hook] not in own.claims:
            raise PluginError(
                f"plugin {name!r} implements the hook `{hook}` without claiming the slot "
                f"`{SLOTS_OF_HOOKS[hook]}`; add it to the claims of its traits"
            )


def _claims(name: str, own: Traits, others: Mapping[str, Traits]) -> list[str]:
    return [
        f"{name} and {rival} both claim {slot}; remove one of the two sections"
        for slot in sorted(own.claims)
        for rival, t in others.items()
        if slot in t.claims and rival < name
    ]


def _needs(name: str, needs: frozenset[str], available: frozenset[str], module: str | None) -> list[str]:
    lines = []
    for need in sorted(needs - available):
        if need in OF_MODULES:
            lines.append(
                f"{name} needs {need}, which {module} does not provide; {OF_MODULES[need]}, or remove the section"
            )
        else:
            lines.append(
                f"{name} needs {need}, which nothing in this run provides; add a section that does, or remove this one"
            )
    return lines


def _refusals_of(hooks: set[str]) -> list[Refusal]:
    return [refusal for hook, refusal in REFUSALS_OF_HOOKS.items() if hook in hooks]


def _refused(name: str, refuses: Iterable[Refusal], others: Mapping[str, Traits]) -> list[str]:
    return [
        f"{name} refuses {refusal.trait} (of {provider}), because {refusal.reason}; {refusal.mend}"
        for refusal in refuses
        for provider, t in others.items()
        if refusal.trait in t.provides
    ]
