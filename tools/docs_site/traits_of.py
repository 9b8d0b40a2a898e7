"""What one plugin declares: its hooks, and its traits with what its hooks imply."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from docs_site.markdown import anchor, code, table
from trustformers_pl.hookspecs import PROJECT, HookSpecs
from trustformers_pl.traits import NEEDS_OF_HOOKS, REFUSALS_OF_HOOKS

if TYPE_CHECKING:
    from collections.abc import Iterable

    from trustformers_pl.plugins import Plugin

HOOKS = [name for name in vars(HookSpecs) if not name.startswith("_")]


def hooks_of(plugin: type[Plugin]) -> list[str]:
    """The hooks that a plugin implements, in the order of the contract."""
    return [name for name in HOOKS if hasattr(getattr(plugin, name, None), f"{PROJECT}_impl")]


def requires(plugin: type[Plugin], config: Any) -> set[str]:
    """The traits that must be there: those declared, and those that its hooks imply."""
    implied = {str(NEEDS_OF_HOOKS[hook]) for hook in hooks_of(plugin) if hook in NEEDS_OF_HOOKS}
    return implied | {str(trait) for trait in plugin.traits(config).requires}


def traits_table(plugin: type[Plugin], config: Any) -> str:
    """Its traits as they are with its example, without the kinds of which there are none."""
    if config is None:
        return "Its traits depend on its keys: `trustformers-pl explain` shows a run's."
    traits = plugin.traits(config)
    refusals = [*traits.refuses, *(REFUSALS_OF_HOOKS[hook] for hook in hooks_of(plugin) if hook in REFUSALS_OF_HOOKS)]
    rows = [
        ["claims", _words(traits.claims, "slot")],
        ["provides", _words(traits.provides, "trait")],
        ["requires", _words(requires(plugin, config), "trait")],
        *(["refuses", f"{_words([r.trait], 'trait')}: {r.reason}; {r.mend}"] for r in refusals),
        ["comes after", ", ".join(code(str(word)) for word in sorted(traits.after))],
    ]
    filled = [row for row in rows if row[1]]
    return table(["With this example it", ""], filled) if filled else ""


def _words(words: Iterable[str], kind: str) -> str:
    return ", ".join(
        code(word) if ":" in word else f"[{code(word)}](../traits.md#{anchor(kind, word)})" for word in sorted(words)
    )
