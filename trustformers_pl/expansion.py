"""Sections that stand for others: expanded before anything else reads the recipe."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from trustformers_pl.hookspecs import PROJECT
from trustformers_pl.recipe.config import build_config
from trustformers_pl.recipe.layers import merge
from trustformers_pl.recipe.places import Section, from_plain
from trustformers_pl.recipe.recipe import Recipe

if TYPE_CHECKING:
    from trustformers_pl.plugins import Offer, Plugin
    from trustformers_pl.recipe.config import Problems


def expanded(recipe: Recipe, offers: dict[str, Offer], problems: Problems) -> Recipe:
    """The recipe with what its sections stand for laid under it, each section's hook `recipe` called once."""
    done: set[str] = set()
    while waiting := [name for name in sorted(recipe.tree.entries) if name in offers and name not in done]:
        name = waiting[0]
        done.add(name)
        cls = offers[name].load()
        if implements(cls, "recipe"):
            recipe = _expanded_by(cls, recipe, name, problems)
    return recipe


def implements(cls: type[Plugin], hook: str) -> bool:
    """Whether a plugin's class has an implementation of a hook."""
    return hasattr(getattr(cls, hook, None), f"{PROJECT}_impl")


def _expanded_by(cls: type[Plugin], recipe: Recipe, name: str, problems: Problems) -> Recipe:
    node = recipe.tree.entries[name]
    config = build_config(cls.Config, node, name, problems)
    if config is None:
        return recipe
    plugin: Any = cls(config, name)
    below = from_plain(plugin.recipe(recipe) or {}, node.place)
    assert isinstance(below, Section)
    return Recipe(recipe.name, merge(below, recipe.tree), recipe.variables, recipe.removed)
