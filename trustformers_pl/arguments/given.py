"""A foreign configuration, read value by value, so that what nobody asked for is known at the end."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

from trustformers_pl.errors import RecipeError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from trustformers_pl.arguments.draft import Draft

AUTO = "auto"


class Given:
    """One mapping of a configuration file.

    Args:
        values: The mapping.
        draft: Notes what has no value yet (`auto`).
        prefix: Of the mapping's own place, `optimizer.params.`.
        auto: Whether a value may be left to another configuration by writing `auto`.
    """

    def __init__(self, values: Mapping[str, Any], draft: Draft, prefix: str = "", *, auto: bool = False) -> None:
        self.values, self.draft, self.prefix, self.auto = values, draft, prefix, auto
        self._taken: set[str] = set()

    def __contains__(self, name: str) -> bool:
        return name in self.values

    def take(self, name: str, default: Any = None) -> Any:
        """A value as it is; `default` where it is missing, null or left open."""
        value = self.values.get(name)
        missing = value is None or (self.auto and value == AUTO)
        if missing and value is not None and name not in self._taken:
            why = "is filled in by transformers from its own arguments; give the value itself"
            self.draft.leave(f"{self.prefix}{name}", value, why)
        self._taken.add(name)
        return default if missing else value

    def number(self, name: str, default: float) -> float:
        """A number, also one that is written as text, as transformers reads it.

        Raises:
            RecipeError: It is none.
        """
        value = self.take(name, default)
        try:
            number = float("nan") if isinstance(value, bool) else float(value)
        except (TypeError, ValueError, OverflowError):
            number = float("nan")
        if not math.isfinite(number):
            raise RecipeError(f"{self.prefix}{name} = {value!r}: expected a number")
        return number

    def whole(self, name: str, default: int) -> int:
        """A whole number.

        Raises:
            RecipeError: It is none.
        """
        value = self.number(name, default)
        if value != int(value):
            raise RecipeError(f"{self.prefix}{name} = {value!r}: expected a whole number")
        return int(value)

    def flag(self, name: str, default: bool = False) -> bool:
        """True or false.

        Raises:
            RecipeError: It is neither.
        """
        value = self.take(name, default)
        if not isinstance(value, bool):
            raise RecipeError(f"{self.prefix}{name} = {value!r}: expected true or false")
        return value

    def word(self, name: str, default: str) -> str:
        """A name, in lower case.

        Raises:
            RecipeError: It is no text.
        """
        value = self.take(name, default)
        if not isinstance(value, str):
            raise RecipeError(f"{self.prefix}{name} = {value!r}: expected a name")
        return value.lower()

    def inner(self, name: str) -> Given:
        """A mapping in this one; an empty one where it is missing.

        Raises:
            RecipeError: It is no mapping.
        """
        value = self.take(name, {})
        if not isinstance(value, dict):
            raise RecipeError(f"{self.prefix}{name} = {value!r}: expected a mapping")
        return Given(value, self.draft, f"{self.prefix}{name}.", auto=self.auto)

    def ignore(self, *names: str) -> None:
        """Take values that need no place."""
        self._taken.update(names)

    @property
    def rest(self) -> dict[str, Any]:
        """What nobody has asked for."""
        return {name: value for name, value in self.values.items() if name not in self._taken}
