"""From a section of the recipe to the feature's Config dataclass, with all problems found at once."""

from __future__ import annotations

import dataclasses
import typing
from dataclasses import MISSING
from typing import Any

from trustformers_pl.errors import RecipeError
from trustformers_pl.names import nearest, on_one_line
from trustformers_pl.recipe.places import DEFAULT, Leaf, Place, Section, plain
from trustformers_pl.recipe.values import MismatchError, describe, fit


@dataclasses.dataclass
class Problems:
    """What is wrong with a recipe, collected so that a person sees all of it at once."""

    found: list[tuple[Place, str]] = dataclasses.field(default_factory=list)

    def add(self, place: Place, text: str) -> None:
        """Note one problem."""
        self.found.append((place, text))

    def __len__(self) -> int:
        return len(self.found)

    def raise_if_any(self) -> None:
        """Raise RecipeError with a line `place: text` for each problem, in the order of their lines."""
        ordered = sorted(self.found, key=lambda problem: (problem[0].source, problem[0].line or 0))
        if ordered:
            raise RecipeError("\n".join(on_one_line(f"{place}: {text}") for place, text in ordered))


def build_config(cls: type, node: Leaf | Section, name: str, problems: Problems) -> Any:
    """An instance of the frozen dataclass `cls` from a section.

    Args:
        cls: The dataclass; nested dataclasses are nested sections.
        node: The section.
        name: Its dotted name, for messages.
        problems: Receives every unknown key, wrong type, missing value and failed check of `__post_init__`.

    Returns:
        The instance, or None where a problem was found.
    """
    if not isinstance(node, Section):
        problems.add(
            node.place, f"{name} is a section with keys, not {node.value!r}; write `{name}: {{}}` for defaults"
        )
        return None
    before = len(problems)
    hints = typing.get_type_hints(cls)
    values = {
        key: _field(child, hints[key], f"{name}.{key}", problems) for key, child in _known(cls, node, name, problems)
    }
    _require(cls, node, hints, name, problems)
    if len(problems) > before:
        return None
    try:
        return cls(**values)
    except ValueError as error:
        problems.add(node.place, f"{name}: {error}")
        return None


def _known(cls: type, node: Section, name: str, problems: Problems) -> list[tuple[str, Leaf | Section]]:
    fields = [field.name for field in dataclasses.fields(cls)]
    for key, child in node.entries.items():
        if key not in fields:
            problems.add(child.place, f"{name}.{key}: no such key; {nearest(key, fields)}")
    return [(key, child) for key, child in node.entries.items() if key in fields]


def _field(node: Leaf | Section, hint: Any, name: str, problems: Problems) -> Any:
    if dataclasses.is_dataclass(hint) and isinstance(hint, type):
        return build_config(hint, node, name, problems)
    value = plain(node)
    try:
        return fit(value, hint)
    except MismatchError as error:
        problems.add(node.place, f"{name} = {value!r}: expected {error}")
        return None


def _require(cls: type, node: Section, hints: dict[str, Any], name: str, problems: Problems) -> None:
    for field in dataclasses.fields(cls):
        if field.name not in node.entries and field.default is MISSING and field.default_factory is MISSING:
            problems.add(node.place, f"{name}.{field.name} is missing; give {describe(hints[field.name])}")


def with_defaults(config: Any, node: Section) -> Section:
    """The section with every key of its Config: those not written stand at the place `default`."""
    entries: dict[str, Leaf | Section] = {}
    for field in dataclasses.fields(config):
        value, written = getattr(config, field.name), node.entries.get(field.name)
        if dataclasses.is_dataclass(value) and not isinstance(value, type):
            entries[field.name] = with_defaults(value, written if isinstance(written, Section) else Section(DEFAULT))
        else:
            entries[field.name] = written or Leaf(value, DEFAULT)
    return Section(node.place, entries)
