"""The tree of a recipe: every value and every section knows the place that it came from."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class Place:
    """Where a value was written: a file and line, a flag, an environment variable, `default` or `Python`.

    Attributes:
        source: The file, flag or variable.
        line: In a file, from 1.
        via: The key that stands for the value, where another section than its own was written.
    """

    source: str
    line: int | None = None
    via: str | None = None

    def __str__(self) -> str:
        where = self.source if self.line is None else f"{self.source}:{self.line}"
        return where if self.via is None else f"{where} ({self.via})"


DEFAULT = Place("default")
PYTHON = Place("Python")


@dataclass(frozen=True)
class Leaf:
    """A value that is not a mapping (a list is one value), and its place."""

    value: Any
    place: Place


@dataclass
class Section:
    """A mapping of keys to values and sections, in the order written, and its place."""

    place: Place
    entries: dict[str, Leaf | Section] = field(default_factory=dict)

    def section(self, key: str) -> Section:
        """The section under `key`, or an empty one where there is none (a bare value there is not a section)."""
        found = self.entries.get(key)
        return found if isinstance(found, Section) else Section(self.place)

    def leaf(self, key: str, default: Any = None) -> Any:
        """The plain value under `key`, or `default`."""
        found = self.entries.get(key)
        return found.value if isinstance(found, Leaf) else default


def plain(node: Leaf | Section) -> Any:
    """The value alone, without places: dicts, lists and scalars."""
    if isinstance(node, Leaf):
        return node.value
    return {key: plain(child) for key, child in node.entries.items()}


def from_plain(value: Any, place: Place = PYTHON) -> Leaf | Section:
    """A tree from plain Python values, all of them at one place; nodes among them keep theirs."""
    if isinstance(value, Leaf | Section):
        return value
    if isinstance(value, Mapping):
        return Section(place, {str(key): from_plain(child, place) for key, child in value.items()})
    return Leaf(value, place)


def flatten(section: Section, prefix: str = "") -> dict[str, Leaf]:
    """Dotted key -> leaf, in order; an empty section stands as a leaf with the value `{}`."""
    flat: dict[str, Leaf] = {}
    for key, child in section.entries.items():
        name = f"{prefix}{key}"
        if isinstance(child, Leaf):
            flat[name] = child
        elif child.entries:
            flat |= flatten(child, f"{name}.")
        else:
            flat[name] = Leaf({}, child.place)
    return flat
