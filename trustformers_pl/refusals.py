"""Which features cannot live in one run, and why: computed from their traits, all at once."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping

    from trustformers_pl.plugins import Plugin
    from trustformers_pl.traits import Traits


def refusals(plugins: list[Plugin], places: Mapping[str, str], provided: frozenset[str]) -> list[str]:
    """One line for each conflict: its place, the features, the reason, and what would work.

    Args:
        plugins: The run's plugins, in order.
        places: Plugin name -> where its section stands.
        provided: Traits that the run itself provides (of its module, for example).
    """
    traits = {plugin.name: plugin.traits(plugin.config) for plugin in plugins}
    lines: list[str] = []
    for name, own in traits.items():
        others = {other: t for other, t in traits.items() if other != name}
        lines += [f"{places[name]}: {line}" for line in _own_lines(name, own, others, provided)]
    return lines


def _own_lines(name: str, own: Traits, others: Mapping[str, Traits], provided: frozenset[str]) -> list[str]:
    lines = []
    for slot in sorted(own.claims):
        rivals = [other for other, t in others.items() if slot in t.claims and other < name]
        lines += [f"{name} and {rival} both claim {slot}; remove one of the two sections" for rival in rivals]
    available = provided.union(*(t.provides for t in others.values()))
    lines += [f"{name} needs {need}, which nothing in this run provides" for need in sorted(own.requires - available)]
    for refusal in own.refuses:
        providers = [other for other, t in others.items() if refusal.trait in t.provides]
        clause = f"because {refusal.reason}; {refusal.mend}"
        lines += [f"{name} refuses {refusal.trait} (of {provider}), {clause}" for provider in providers]
    return lines
