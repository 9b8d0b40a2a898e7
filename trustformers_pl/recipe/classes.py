"""Building the class that a `class_path` / `init_args` section names: our checks first, then jsonargparse."""

from __future__ import annotations

import importlib
import inspect
from typing import TYPE_CHECKING, Any

from jsonargparse import ArgumentParser

from trustformers_pl.errors import RecipeError, TrustformersError
from trustformers_pl.names import nearest
from trustformers_pl.recipe.places import Section, plain

if TYPE_CHECKING:
    from types import ModuleType


def build_class(node: Section, name: str, kind: type) -> Any:
    """An instance of the class that the section names.

    Args:
        node: The section, with `class_path` and `init_args`.
        name: Its name, for messages.
        kind: What the class must be a subclass of.

    Raises:
        RecipeError: The class cannot be imported, is of another kind, does not take an argument or refuses a value.
        TrustformersError: The class itself raises one.
    """
    cls = _located(node, name)
    place = node.entries["class_path"].place
    path = node.leaf("class_path")
    if not (isinstance(cls, type) and issubclass(cls, kind)):
        raise RecipeError(
            f"{place}: {name}.class_path: {path} is not a {kind.__name__}; subclass lightning.{kind.__name__}"
        )
    _check_arguments(node.section("init_args"), name, cls)
    parser = ArgumentParser(exit_on_error=False)
    parser.add_class_arguments(cls, name)
    try:
        parsed = parser.parse_object({name: plain(node.section("init_args"))})
    except Exception as error:  # jsonargparse wraps whatever a type's parser raises
        raise RecipeError(f"{_blamed(node, error)}: {name}: {path}: {_last_clause(error)}") from error
    try:
        return parser.instantiate(parsed)[name]
    except TrustformersError:
        raise
    except Exception as error:  # the class is the user's: anything can come out of it
        raise RecipeError(f"{place}: {name}: {path} raised {type(error).__name__}: {_one_line(error)}") from error


def _located(node: Section, name: str) -> Any:
    place = node.entries["class_path"].place
    path = node.leaf("class_path")
    module_name, _, class_name = path.rpartition(".")
    try:
        module = importlib.import_module(module_name)
    except Exception as error:  # importing runs the user's module
        cause = f"{type(error).__name__}: {_one_line(error)}"
        raise RecipeError(f"{place}: {name}.class_path: cannot import {module_name!r}: {cause}") from error
    if not hasattr(module, class_name):
        hint = nearest(class_name, _classes(module))
        raise RecipeError(f"{place}: {name}.class_path: {module_name} has no {class_name!r}; {hint}")
    return getattr(module, class_name)


def _classes(module: ModuleType) -> list[str]:
    public = [name for name in dir(module) if not name.startswith("_")]
    return [name for name in public if isinstance(getattr(module, name, None), type)]


def _check_arguments(init_args: Section, name: str, cls: type) -> None:
    parameters = inspect.signature(cls).parameters
    if any(parameter.kind is inspect.Parameter.VAR_KEYWORD for parameter in parameters.values()):
        return
    unknown = [(key, child) for key, child in init_args.entries.items() if key not in parameters]
    lines = [
        f"{child.place}: {name}.init_args.{key}: {cls.__name__} takes no such argument; {nearest(key, parameters)}"
        for key, child in unknown
    ]
    if lines:
        raise RecipeError("\n".join(lines))


def _blamed(node: Section, error: Exception) -> Any:
    """The place of the argument that jsonargparse's message names, or of the section."""
    for key, child in node.section("init_args").entries.items():
        if f'"{key}"' in str(error) or f".{key}" in str(error):
            return child.place
    return node.place


def _last_clause(error: Exception) -> str:
    lines = [line.strip(" -") for line in str(error).splitlines() if line.strip(" -")]
    return " ".join(lines)


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())
