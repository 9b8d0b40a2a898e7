"""Types as JSON Schema: what `trustformers_pl.recipe.values.fit` takes, in the words of an editor."""

from __future__ import annotations

import dataclasses
import math
import types
import typing
from pathlib import Path
from typing import Any, Literal

from trustformers_pl.recipe.docstrings import field_docstrings
from trustformers_pl.recipe.values import MAPPINGS, SEQUENCES

Schema = dict[str, Any]
SCALARS: dict[Any, str] = {int: "integer", float: "number", bool: "boolean", str: "string", Path: "string"}


def type_schema(hint: Any) -> Schema:
    """The values that `fit` takes for a type; what no file can write is refused."""
    origin, args = typing.get_origin(hint), typing.get_args(hint)
    if hint is Any:
        return {}
    if hint in SCALARS:
        return {"type": SCALARS[hint]}
    if hint in (None, type(None)):
        return {"type": "null"}
    if origin is Literal:
        return {"enum": list(args)}
    if origin in (typing.Union, types.UnionType):
        return _union([type_schema(arg) for arg in args])
    if origin in SEQUENCES or hint in SEQUENCES:
        return _sequence(origin or hint, args)
    if origin in MAPPINGS or hint in MAPPINGS:
        return {"type": "object", **({"additionalProperties": type_schema(args[1])} if args else {})}
    return {"not": {}, "description": f"a {getattr(hint, '__name__', hint)}, which no recipe can write"}


def config_schema(cls: type) -> Schema:
    """A section: the fields of its Config dataclass with docstrings and defaults, and no other key.

    Args:
        cls: The dataclass; nested ones are nested sections.

    Returns:
        Without `required`: that is `required_keys`, for what one file lacks another may bring.
    """
    documented, hints = field_docstrings(cls), typing.get_type_hints(cls)
    properties = {
        field.name: {
            **_field_schema(hints[field.name]),
            **({"description": documented[field.name]} if field.name in documented else {}),
            **_default(field),
        }
        for field in dataclasses.fields(cls)
    }
    return {"type": "object", "properties": properties, "additionalProperties": False}


def required_keys(cls: type) -> Schema:
    """What a section must have where nothing else can bring it: `{}` if nothing."""
    hints = typing.get_type_hints(cls)
    names = [f.name for f in dataclasses.fields(cls) if not has_default(f)]
    nested = {f.name: required_keys(hints[f.name]) for f in dataclasses.fields(cls) if _is_section(hints[f.name])}
    nested = {name: schema for name, schema in nested.items() if schema}
    return {**({"required": names} if names else {}), **({"properties": nested} if nested else {})}


def portable(value: Any) -> Any:
    """A default as a recipe file would hold it.

    Raises:
        ValueError: No file can hold it as JSON does: an infinite number, an object.
    """
    if isinstance(value, list | tuple):
        return [portable(item) for item in value]
    if isinstance(value, typing.Mapping):
        return {str(key): portable(item) for key, item in value.items()}
    if isinstance(value, Path):
        return str(value)
    if value is None or isinstance(value, bool | int | str) or (isinstance(value, float) and math.isfinite(value)):
        return value
    raise ValueError(f"{value!r} has no JSON")


def _union(options: list[Schema]) -> Schema:
    simple = [option["type"] for option in options if set(option) == {"type"} and isinstance(option["type"], str)]
    if len(simple) == len(options):
        return {"type": list(dict.fromkeys(simple))}
    return {"anyOf": options}


def _sequence(origin: Any, args: tuple[Any, ...]) -> Schema:
    if not args:
        return {"type": "array"}
    if origin is not tuple or args[1:] == (...,):
        return {"type": "array", "items": type_schema(args[0])}
    count = len(args)
    return {
        "type": "array",
        "prefixItems": [type_schema(arg) for arg in args],
        "items": False,
        "minItems": count,
        "maxItems": count,
    }


def _is_section(hint: Any) -> bool:
    return dataclasses.is_dataclass(hint) and isinstance(hint, type)


def _field_schema(hint: Any) -> Schema:
    return config_schema(hint) if _is_section(hint) else type_schema(hint)


def has_default(field: dataclasses.Field[Any]) -> bool:
    """Whether a field may be left out."""
    return field.default is not dataclasses.MISSING or field.default_factory is not dataclasses.MISSING


def _default(field: dataclasses.Field[Any]) -> Schema:
    value = field.default_factory() if field.default_factory is not dataclasses.MISSING else field.default
    if not has_default(field) or (dataclasses.is_dataclass(value) and not isinstance(value, type)):
        return {}
    try:
        return {"default": portable(value)}
    except ValueError:
        return {}
