"""Lightning parts before they exist: a call that can be built, or printed as the Python that a person would write."""

from __future__ import annotations

import importlib
import itertools
import math
from dataclasses import dataclass, field
from types import FunctionType
from typing import Any


@dataclass(frozen=True)
class Name:
    """A variable that the place of use supplies, such as the `optimizer` that a schedule is made for."""

    name: str


@dataclass(frozen=True)
class Part:
    """A call `target(*args, **kwargs)` that has not happened yet.

    Plugins describe their Lightning parts with it, so that declaring a run imports neither torch nor Lightning.

    Attributes:
        target: `package.module:name`, the public place that a person would import it from.
        args: Positional arguments; parts, names, and lists or dicts of them are built first.
        kwargs: Keyword arguments, likewise.
    """

    target: str
    args: tuple[Any, ...] = ()
    kwargs: dict[str, Any] = field(default_factory=dict)

    def build(self, **names: Any) -> Any:
        """Import the target and call it.

        Args:
            **names: The values of the free variables (`Name`) in the arguments.
        """
        function = locate(self.target)
        args = [build(arg, names) for arg in self.args]
        return function(*args, **{key: build(value, names) for key, value in self.kwargs.items()})


def part(target: str, /, *args: Any, **kwargs: Any) -> Part:
    """Shorthand for `Part(target, args, kwargs)`."""
    return Part(target, args, kwargs)


def locate(target: str) -> Any:
    """The object that `package.module:name` names."""
    module, _, name = target.partition(":")
    return getattr(importlib.import_module(module), name)


def build(value: Any, names: dict[str, Any]) -> Any:
    """`value` with every part in it built and every name replaced."""
    if isinstance(value, Part):
        return value.build(**names)
    if isinstance(value, Name):
        return names[value.name]
    if isinstance(value, list | tuple):
        return type(value)(build(item, names) for item in value)
    if isinstance(value, dict):
        return {key: build(item, names) for key, item in value.items()}
    return value


class Script:
    """Python source under construction: expressions, and the imports that they need."""

    def __init__(self) -> None:
        self._names: dict[str, str] = {}

    def expression(self, value: Any, **renamed: str) -> str:
        """`value` as a Python expression.

        Args:
            value: Parts, names, and what holds them; anything else by its `repr`.
            **renamed: Expressions for free variables, in place of their own names.
        """
        if isinstance(value, Part):
            return self._call(value, renamed)
        if isinstance(value, Name):
            return renamed.get(value.name, value.name)
        if isinstance(value, dict):
            return "{" + ", ".join(f"{k!r}: {self.expression(v, **renamed)}" for k, v in value.items()) + "}"
        if isinstance(value, list | tuple):
            items = ", ".join(self.expression(item, **renamed) for item in value)
            return f"[{items}]" if isinstance(value, list) else f"({items}{',' if len(value) == 1 else ''})"
        if isinstance(value, FunctionType) and value.__qualname__.isidentifier():
            return self.name(f"{value.__module__}:{value.__qualname__}")
        if isinstance(value, float) and not math.isfinite(value):
            return f"float({str(value)!r})"
        return repr(str(value)) if hasattr(value, "__fspath__") else repr(value)

    def _call(self, call: Part, renamed: dict[str, str]) -> str:
        args = [self.expression(arg, **renamed) for arg in call.args]
        args += [f"{key}={self.expression(value, **renamed)}" for key, value in call.kwargs.items()]
        return f"{self.name(call.target)}({', '.join(args)})"

    def name(self, target: str) -> str:
        """The name of a target in this script, noting its import; numbered where two modules have one name."""
        if target not in self._names:
            own = target.partition(":")[2]
            taken = set(self._names.values())
            numbered = (f"{own}_{number}" for number in itertools.count(2))
            self._names[target] = own if own not in taken else next(name for name in numbered if name not in taken)
        return self._names[target]

    def import_lines(self) -> list[str]:
        """`from module import names`, sorted."""
        by_module: dict[str, list[str]] = {}
        for target, name in sorted(self._names.items()):
            module, _, own = target.partition(":")
            by_module.setdefault(module, []).append(own if own == name else f"{own} as {name}")
        return [f"from {module} import {', '.join(names)}" for module, names in sorted(by_module.items())]
