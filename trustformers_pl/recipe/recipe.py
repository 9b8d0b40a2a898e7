"""A recipe: the merged layers of one run's configuration, before any feature has looked at it."""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from trustformers_pl.errors import RecipeError
from trustformers_pl.recipe.layers import (
    apply_environment,
    apply_overrides,
    environment_sections,
    merge,
    read_layers,
    removed_sections,
    without_nulls,
)
from trustformers_pl.recipe.places import PYTHON, Leaf, Place, Section, from_plain

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

VERSION = 1


@dataclass(frozen=True)
class Recipe:
    """The sections of one run.

    Attributes:
        name: The file's stem; names the run folder when none is given.
        tree: Sections and values, each with its place; sections taken out with `null` are gone.
        variables: Environment variable -> the section it names, for those that look like ours.
        removed: Sections that were taken out, and where; no other section's short form brings them back.
    """

    name: str
    tree: Section
    variables: Mapping[str, str]
    removed: Mapping[str, Place] = field(default_factory=dict)

    @classmethod
    def read(
        cls, path: str | Path, overrides: Iterable[str] = (), environment: Mapping[str, str] | None = None
    ) -> Recipe:
        """The recipe in a file, with what it extends, the environment and overrides laid over it.

        Args:
            path: A YAML file.
            overrides: `section.key=value` or `no-section`, with or without leading dashes.
            environment: Instead of `os.environ`.

        Raises:
            RecipeError: Something of it cannot be read; the message names the file and line.
        """
        environment = os.environ if environment is None else environment
        tree = apply_environment(read_layers(Path(path)), environment)
        tree = apply_overrides(tree, overrides)
        return cls(Path(path).stem, _checked(tree), environment_sections(environment), removed_sections(tree))

    @classmethod
    def from_mapping(cls, sections: Mapping[str, Any], name: str = "run") -> Recipe:
        """A recipe from plain Python values, as `Trainer(args=...)` takes it. The environment has no say in it."""
        tree = from_plain(sections)
        if not isinstance(tree, Section):
            raise RecipeError("Python: a recipe is a mapping of sections")
        return cls(name, _checked(tree), {}, removed_sections(tree))

    def with_section(self, name: str, values: Mapping[str, Any]) -> Recipe:
        """The same recipe with one more section; keys already there are kept where `values` has none."""
        top = Section(PYTHON, {name: from_plain(values)})
        return Recipe(self.name, merge(self.tree, top), self.variables, _without(self.removed, top))

    def under(self, sections: Mapping[str, Any], name: str, place: Place) -> Recipe:
        """Another recipe, with `sections` laid over this one; a section set to None is taken out.

        Args:
            sections: Plain values.
            name: Of the new recipe.
            place: Where `sections` stand, for messages.
        """
        top = Section(place, {key: from_plain(value, place) for key, value in sections.items()})
        removed = _without(self.removed, top) | removed_sections(top)
        return Recipe(name, _checked(merge(self.tree, top)), {}, removed)


def _without(removed: Mapping[str, Place], top: Section) -> dict[str, Place]:
    return {name: place for name, place in removed.items() if name not in top.entries}


def _checked(tree: Section) -> Section:
    tree = without_nulls(tree)
    version = tree.entries.get("version", Leaf(VERSION, tree.place))
    if not isinstance(version, Leaf) or version.value != VERSION or isinstance(version.value, bool):
        shown = version.value if isinstance(version, Leaf) else "a section"
        raise RecipeError(f"{version.place}: version is {shown!r}; this package reads version {VERSION}")
    return tree
