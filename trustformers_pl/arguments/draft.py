"""Sections in the making: every value knows which argument it came from, and what found no place is kept too."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Mapping


@dataclass(frozen=True)
class Left:
    """A value that was not carried over, or not to the letter.

    Attributes:
        name: As its own configuration calls it, dotted where it is nested.
        value: As given there.
        why: The reason, and what to do instead.
    """

    name: str
    value: Any
    why: str


@dataclass
class Draft:
    """Sections of a recipe.

    Attributes:
        values: Dotted key (`optimizer.lr`) -> value; an empty mapping is a section at its defaults.
        origins: Dotted key -> the argument that the value came from.
        left: What was not carried over.
    """

    values: dict[str, Any] = field(default_factory=dict)
    origins: dict[str, str] = field(default_factory=dict)
    left: list[Left] = field(default_factory=list)

    def put(self, key: str, value: Any, origin: str) -> None:
        """Set a value at a dotted key."""
        self.values[key] = value
        self.origins[key] = origin

    def leave(self, name: str, value: Any, why: str) -> None:
        """Note what was not carried over."""
        self.left.append(Left(name, value, why))

    def has(self, section: str) -> bool:
        """Whether anything of a section was set."""
        return any(key == section or key.startswith(f"{section}.") for key in self.values)

    @property
    def sections(self) -> dict[str, Any]:
        """The sections as plain nested mappings."""
        return nested(self.values)


def nested(values: Mapping[str, Any]) -> dict[str, Any]:
    """Dotted keys as nested mappings: `{"a.b": 1}` -> `{"a": {"b": 1}}`."""
    top: dict[str, Any] = {}
    for dotted, value in values.items():
        *path, key = dotted.split(".")
        inner = top
        for name in path:
            inner = inner.setdefault(name, {})
        inner[key] = value
    return top
