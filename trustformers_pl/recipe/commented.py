"""A recipe that explains itself: every installed section with every key, its meaning and its default."""

from __future__ import annotations

import dataclasses
import textwrap
import typing
from typing import TYPE_CHECKING, Any

from trustformers_pl.errors import PluginError
from trustformers_pl.plugins import discover, slots, summary
from trustformers_pl.recipe.docstrings import field_docstrings
from trustformers_pl.recipe.schema_types import has_default
from trustformers_pl.recipe.values import describe
from trustformers_pl.recipe.writing import flow

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from trustformers_pl.plugins import Offer, Plugin

WIDTH = 100
INDENT = "  "
# One `#` takes a section out; a second one within it, a key that stands at its default.
OUT = "# "


def commented_sections(active: Mapping[str, Any]) -> str:
    """All installed sections as YAML.

    Args:
        active: Section -> the values it has; these stand as they are, their other keys commented out. All other
            sections are commented out as a whole, with the values of their plugin's `example`.

    Returns:
        The active sections first, in the order given, then the others by name; a block of text.
    """
    offers = discover()
    blocks = [_active(section, values, offers) for section, values in active.items()]
    used = {_offer_name(section, values, offers) for section, values in active.items()}
    blocks += [_inactive(offer) for name, offer in offers.items() if name not in used]
    return "\n".join(blocks)


def _offer_name(section: str, values: Mapping[str, Any], offers: Mapping[str, Offer]) -> str:
    return f"{section}.{values['name']}" if section in slots(dict(offers)) else section


def _active(section: str, values: Mapping[str, Any], offers: Mapping[str, Offer]) -> str:
    name = _offer_name(section, values, offers)
    return "".join(f"{line}\n" for line in _block(name, offers[name].load(), values))


def _inactive(offer: Offer) -> str:
    try:
        cls = offer.load()
    except PluginError as error:
        return "".join(f"{OUT}{line}\n" for line in textwrap.wrap(f"{offer.name}: broken: {error}", WIDTH))
    return "".join(f"{OUT}{line}".rstrip() + "\n" for line in _block(offer.name, cls, cls.example))


def _block(name: str, cls: type[Plugin], values: Mapping[str, Any]) -> Iterator[str]:
    section, _, choice = name.partition(".")
    yield from _comment(summary(cls), "")
    yield f"{section}:"
    if choice:
        yield f"{INDENT}name: {choice}"
    body = list(_keys(cls.Config, values or _defaults(cls.Config), INDENT))
    yield from body
    if not choice and all(line.lstrip().startswith("#") for line in body):
        yield f"{INDENT}{{}}"  # nothing under a section would be null, which takes it out


def _defaults(cls: type) -> dict[str, Any]:
    """What a section without values stands for, so that there is something to change."""
    return {field.name: _default_value(field) for field in dataclasses.fields(cls) if has_default(field)}


def _keys(cls: type, values: Mapping[str, Any], indent: str) -> Iterator[str]:
    documented, hints = field_docstrings(cls), typing.get_type_hints(cls)
    for field in dataclasses.fields(cls):
        hint = hints[field.name]
        yield from _comment(documented.get(field.name, ""), indent)
        if dataclasses.is_dataclass(hint) and isinstance(hint, type) and isinstance(values.get(field.name), dict):
            yield f"{indent}{field.name}:"
            yield from _keys(hint, values[field.name], indent + INDENT)
        elif field.name in values:
            yield f"{indent}{field.name}: {flow(values[field.name])}"
        else:
            yield f"{indent}{OUT}{field.name}: {_default(field, hint)}"


def _default(field: dataclasses.Field[Any], hint: Any) -> str:
    return flow(_default_value(field)) if has_default(field) else f"... (required: {describe(hint)})"


def _default_value(field: dataclasses.Field[Any]) -> Any:
    value: Any = field.default if field.default_factory is dataclasses.MISSING else field.default_factory()
    is_section = dataclasses.is_dataclass(value) and not isinstance(value, type)
    return dataclasses.asdict(value) if is_section else value


def _comment(text: str, indent: str) -> Iterator[str]:
    for line in textwrap.wrap(text, WIDTH - len(indent)):
        yield f"{indent}{OUT}{line}"
