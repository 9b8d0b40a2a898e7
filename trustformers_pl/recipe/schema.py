"""The JSON Schema (draft 2020-12) of recipes: for editors, which complete, explain and check while one types."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from trustformers_pl.errors import PluginError
from trustformers_pl.expansion import implements
from trustformers_pl.plan import CORE_SECTIONS, FILLED_BY_HOOKS
from trustformers_pl.plugins import discover, slots, summary, trainer_argument_owners
from trustformers_pl.recipe.recipe import VERSION
from trustformers_pl.recipe.schema_types import Schema, config_schema, required_keys
from trustformers_pl.trainer_arguments import TrainerArguments

if TYPE_CHECKING:
    from collections.abc import Collection

    from trustformers_pl.plugins import Offer, Plugin

DIALECT = "https://json-schema.org/draft/2020-12/schema"
CLASS_PATH = r"^[^.\s]+(\.[^.\s]+)+$"
EXTENDS: Schema = {
    "description": "Recipes that this one is laid over: paths, relative to this file.",
    "anyOf": [{"type": "string"}, {"type": "array", "items": {"type": "string"}}],
}
SEED: Schema = {
    "description": "Of all random number generators.",
    "type": ["integer", "null"],
    "minimum": 0,
    "exclusiveMaximum": 2**32,
    "default": 0,
}


def recipe_schema(only: Collection[str] | None = None) -> Schema:
    """What a recipe file may hold, by the plugins that are installed.

    It refuses what the reader refuses for its form: unknown sections and keys, wrong types, unknown choices, missing
    values. A value that a file lacks may come from a file that it extends, or from a section that stands for others,
    so in such files nothing is required. What a `Config` checks by itself (ranges) is not in it.

    Args:
        only: Sections to take up; None takes all that are installed. Those of the core are always there.
    """
    offers = {name: offer for name, offer in discover().items() if only is None or _section(name) in only}
    loaded = {name: _loaded(offer) for name, offer in offers.items()}
    choices = slots(offers)
    sections = {name: _feature(loaded[name]) for name in offers if "." not in name}
    sections |= {slot: _slot(slot, names, loaded) for slot, names in choices.items()}
    return {
        "$schema": DIALECT,
        "title": "A recipe of trustformers_pl",
        "type": "object",
        "properties": {**_core(), **{name: _or_null(schema) for name, schema in sorted(sections.items())}},
        "additionalProperties": False,
        "if": {"not": {"anyOf": [{"required": [name]} for name in ["extends", *_expanders(loaded)]]}},
        "then": {"properties": _requirements(loaded, choices)},
    }


def _section(name: str) -> str:
    return name.partition(".")[0]


def _loaded(offer: Offer) -> type[Plugin] | PluginError:
    try:
        return offer.load()
    except PluginError as error:  # a broken package spoils its own section alone
        return error


def _core() -> dict[str, Schema]:
    described = {
        "model": "The LightningModule: its class, and the arguments of its `__init__`.",
        "data": "The LightningDataModule: its class, and the arguments of its `__init__`.",
    }
    core = {
        "version": {"description": "Of the recipe's format.", "enum": [VERSION, None]},
        "extends": EXTENDS,
        "seed": SEED,
        **{name: _or_null(_class_section(description)) for name, description in described.items()},
        "trainer": _or_null(_trainer()),
    }
    assert set(core) - {"extends"} == set(CORE_SECTIONS)
    return core


def _class_section(description: str) -> Schema:
    return {
        "type": "object",
        "description": description,
        "properties": {
            "class_path": {"description": "`my_package.MyClass`.", "type": "string", "pattern": CLASS_PATH},
            "init_args": {"description": "By name.", "type": ["object", "null"]},
        },
        "additionalProperties": False,
    }


def _trainer() -> Schema:
    schema = config_schema(TrainerArguments)
    schema["description"] = "Arguments of `lightning.Trainer` that no section owns."
    owners = {
        argument: " or ".join(f"`{name}`" for name in names) for argument, names in trainer_argument_owners().items()
    }
    for argument in schema["properties"]:
        if argument in FILLED_BY_HOOKS:
            bringers = FILLED_BY_HOOKS[argument]
            schema["properties"][argument] = _never(
                f"Filled by the sections that bring {bringers}; add such a section."
            )
        elif argument in owners:
            schema["properties"][argument] = _never(f"Owned by the section {owners[argument]}; write that instead.")
    return schema


def _never(description: str) -> Schema:
    return {"not": {}, "description": description}


def _feature(cls: type[Plugin] | PluginError) -> Schema:
    if isinstance(cls, PluginError):
        return {"type": "object", "description": f"Broken: {cls}"}
    return {"description": summary(cls), **config_schema(cls.Config)}


def _slot(slot: str, names: list[str], loaded: dict[str, Any]) -> Schema:
    """One branch a choice, told apart by `name`; one more for files where another file chooses."""
    branches = [_choice(name, _feature(loaded[f"{slot}.{name}"])) for name in names]
    return {"description": f"Choose one by `name`: {', '.join(names)}.", "oneOf": [*branches, _unnamed(branches)]}


def _choice(name: str, schema: Schema) -> Schema:
    properties = {"name": {"const": name, "description": schema["description"]}, **schema.get("properties", {})}
    return {"title": name, **schema, "properties": properties, "required": ["name"]}


def _unnamed(branches: list[Schema]) -> Schema:
    """The keys of any choice, each as one of those that have it takes it."""
    keys: dict[str, list[Schema]] = {}
    for branch in branches:
        for key, schema in branch["properties"].items():
            if key != "name" and schema not in keys.setdefault(key, []):
                keys[key].append(schema)
    properties = {key: schemas[0] if len(schemas) == 1 else {"anyOf": schemas} for key, schemas in keys.items()}
    closed = all(branch.get("additionalProperties") is False for branch in branches)
    return {
        "title": "as chosen in the recipe that this one extends",
        "type": "object",
        "properties": {"name": False, **properties},
        **({"additionalProperties": False} if closed else {}),
    }


def _or_null(schema: Schema) -> Schema:
    """A section, or `null`: what another file has switched on is taken out."""
    if isinstance(schema.get("type"), str):
        return {**schema, "type": [schema["type"], "null"]}
    return {**schema, "oneOf": [*schema["oneOf"], {"type": "null", "title": "taken out"}]}


def _expanders(loaded: dict[str, Any]) -> list[str]:
    """Sections that stand for others, and may bring what these lack."""
    return sorted({_section(n) for n, cls in loaded.items() if isinstance(cls, type) and implements(cls, "recipe")})


def _requirements(loaded: dict[str, Any], choices: dict[str, list[str]]) -> dict[str, Schema]:
    required: dict[str, Schema] = {name: {"required": ["class_path"]} for name in ("model", "data")}
    for name, cls in loaded.items():
        needed = {} if isinstance(cls, PluginError) else required_keys(cls.Config)
        if name == _section(name) and needed:
            required[name] = needed
    for slot, names in choices.items():
        by_choice = _by_choice(slot, names, loaded)
        required[slot] = {"required": ["name"], **({"allOf": by_choice} if by_choice else {})}
    return {name: {"if": {"type": "object"}, "then": schema} for name, schema in required.items()}


def _by_choice(slot: str, names: list[str], loaded: dict[str, Any]) -> list[Schema]:
    found = []
    for name in names:
        cls = loaded[f"{slot}.{name}"]
        needed = {} if isinstance(cls, PluginError) else required_keys(cls.Config)
        if needed:
            found.append({"if": {"properties": {"name": {"const": name}}, "required": ["name"]}, "then": needed})
    return found
