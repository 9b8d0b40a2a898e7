"""Does this value have that type? Strict: `true` is no integer and `"3"` no number."""

from __future__ import annotations

import dataclasses
import types
import typing
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

from trustformers_pl.names import nearest

SCALARS: dict[Any, str] = {
    int: "an integer",
    float: "a number",
    bool: "true or false",
    str: "a string",
    Path: "a path",
    type(None): "null",
    Any: "anything",
}
PLURALS: dict[Any, str] = {int: "integers", float: "numbers", str: "strings", Path: "paths"}
SEQUENCES = (list, tuple, Sequence)
MAPPINGS = (dict, Mapping)


class MismatchError(Exception):
    """The value does not have the type; the message completes `expected …`."""


def describe(hint: Any) -> str:
    """The type in words, as it stands in an error message after `expected`."""
    if hint in SCALARS:
        return SCALARS[hint]
    origin, args = typing.get_origin(hint), typing.get_args(hint)
    if origin is Literal:
        return "one of " + ", ".join(map(str, args))
    if origin in (typing.Union, types.UnionType):
        return " or ".join(describe(arg) for arg in args)
    if origin in SEQUENCES:
        return (
            f"a list of {PLURALS.get(args[0], 'values')}"
            if origin is not tuple or ... in args
            else f"{len(args)} values"
        )
    if origin in MAPPINGS:
        return "a mapping"
    return "a section" if dataclasses.is_dataclass(hint) else str(hint)


def is_supported(hint: Any) -> bool:
    """Whether a recipe can hold values of this type."""
    if hint in SCALARS:
        return True
    origin, args = typing.get_origin(hint), [arg for arg in typing.get_args(hint) if arg is not ...]
    if origin is Literal:
        return all(isinstance(arg, str | int | float | bool | None) for arg in args)
    composed = origin in (typing.Union, types.UnionType) or origin in (*SEQUENCES, *MAPPINGS)
    return composed and bool(args) and all(map(is_supported, args))


def fit(value: Any, hint: Any) -> Any:
    """The value as the type has it (an int where a float is asked for becomes one, a list a tuple).

    Raises:
        MismatchError: It does not have the type.
    """
    origin, args = typing.get_origin(hint), typing.get_args(hint)
    if hint is Any:
        return value
    if origin is Literal:
        return _fit_literal(value, args)
    if origin in (typing.Union, types.UnionType):
        return _fit_union(value, args, hint)
    if origin in SEQUENCES:
        return _fit_sequence(value, origin, args, hint)
    if origin in MAPPINGS:
        return _fit_mapping(value, args, hint)
    return _fit_scalar(value, hint)


def _fit_scalar(value: Any, hint: Any) -> Any:
    if hint is float and type(value) in (int, float):
        return _as_float(value)
    if hint is Path and isinstance(value, str | Path):
        return Path(value)
    if type(value) is hint or (not isinstance(value, bool | int | float | str) and isinstance(value, hint)):
        return value
    raise MismatchError(describe(hint))


def _as_float(value: int | float) -> float:
    try:
        return float(value)
    except OverflowError:
        raise MismatchError(f"{describe(float)} of at most 1.8e308") from None


def _fit_literal(value: Any, allowed: tuple[Any, ...]) -> Any:
    if any(value == option and type(value) is type(option) for option in allowed):
        return value
    names = [option for option in allowed if isinstance(option, str)]
    hint = f"; {nearest(value, names)}" if isinstance(value, str) and names else ""
    raise MismatchError("one of " + ", ".join(map(str, allowed)) + hint)


def _fit_union(value: Any, args: tuple[Any, ...], hint: Any) -> Any:
    exact = [arg for arg in args if type(value) is arg]  # an int stays an int in `int | float`
    for arg in [*exact, *args]:
        try:
            return fit(value, arg)
        except MismatchError as error:
            if len([a for a in args if a is not type(None)]) == 1 and arg is not type(None):
                raise MismatchError(f"{error} or null") from None
    raise MismatchError(describe(hint))


def _fit_sequence(value: Any, origin: Any, args: tuple[Any, ...], hint: Any) -> Any:
    if not isinstance(value, list | tuple):
        raise MismatchError(describe(hint))
    make = list if origin is list else tuple
    if origin is not tuple or args[1:] == (...,):
        return make(fit(item, args[0]) for item in value)
    if len(args) != len(value):
        raise MismatchError(f"{len(args)} values, not {len(value)}")
    return tuple(fit(item, arg) for item, arg in zip(value, args, strict=True))


def _fit_mapping(value: Any, args: tuple[Any, ...], hint: Any) -> Any:
    if not isinstance(value, Mapping):
        raise MismatchError(describe(hint))
    key_type, value_type = args or (Any, Any)
    return {fit(key, key_type): fit(item, value_type) for key, item in value.items()}
