"""Sections that stand for others: expanded before anything else reads the recipe."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from trustformers_pl.hookspecs import PROJECT
from trustformers_pl.recipe.config import build_config
from trustformers_pl.recipe.layers import merge
from trustformers_pl.recipe.places import Leaf, Section, flatten, from_plain
from trustformers_pl.recipe.recipe import Recipe

if TYPE_CHECKING:
    from trustformers_pl.plugins import Offer, Plugin
    from trustformers_pl.recipe.config import Problems


def expanded(recipe: Recipe, offers: dict[str, Offer], problems: Problems) -> Recipe:
    """The recipe with what its sections stand for laid under it, each section's hook `recipe` called once.

    A section that the recipe takes out stays out. Two sections that stand for different values of one key, neither of
    them written, are a problem; so is a value for a section that was expanded without it.
    """
    written = flatten(recipe.tree)
    given: dict[str, tuple[str, Leaf]] = {}  # key -> the section that stands for it, and what it says
    done: set[str] = set()
    while waiting := [name for name in sorted(recipe.tree.entries) if name in offers and name not in done]:
        name = waiting[0]
        cls = offers[name].load()
        done.add(name)
        if implements(cls, "recipe"):
            below = _stands_for(cls, recipe, name, problems)
            for key, leaf in flatten(below).items():
                if not _hidden_by(key, written):
                    _compare(name, key, leaf, given, {other for other in done if _expands(offers, other)}, problems)
            recipe = Recipe(recipe.name, merge(below, recipe.tree), recipe.variables, recipe.removed)
    return recipe


def implements(cls: type[Plugin], hook: str) -> bool:
    """Whether a plugin's class has an implementation of a hook."""
    return hasattr(getattr(cls, hook, None), f"{PROJECT}_impl")


def _expands(offers: dict[str, Offer], name: str) -> bool:
    return implements(offers[name].load(), "recipe")


def _stands_for(cls: type[Plugin], recipe: Recipe, name: str, problems: Problems) -> Section:
    node = recipe.tree.entries[name]
    config = build_config(cls.Config, node, name, problems)
    if config is None:
        return Section(node.place)
    plugin: Any = cls(config, name)
    below = from_plain(plugin.recipe(recipe) or {}, node.place)
    assert isinstance(below, Section)
    return Section(below.place, {key: child for key, child in below.entries.items() if key not in recipe.removed})


def _hidden_by(key: str, written: dict[str, Leaf]) -> bool:
    """Whether the recipe says something of this key itself, or in place of the section that it is in."""
    parts = key.split(".")
    return any(_is_value(written.get(".".join(parts[:length]))) for length in range(1, len(parts) + 1))


def _is_value(leaf: Leaf | None) -> bool:
    return leaf is not None and leaf.value != {}  # an empty section says nothing of its keys


def _compare(
    name: str, key: str, leaf: Leaf, given: dict[str, tuple[str, Leaf]], done: set[str], problems: Problems
) -> None:
    section = key.partition(".")[0]
    first, before = given.setdefault(key, (name, leaf))
    if before.value != leaf.value:
        problems.add(
            leaf.place,
            f"{first} stands for {key} = {before.value!r}, and {name} for {leaf.value!r}; write {key} in the recipe, "
            "or remove one of the two sections",
        )
    elif section in done and section != key and first == name:
        problems.add(
            leaf.place,
            f"{name} stands for {key} = {leaf.value!r}, and {section} was expanded without it; write {key} in the "
            "recipe",
        )
