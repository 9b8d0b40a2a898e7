"""YAML with places: PyYAML's nodes carry line marks, which survive into the recipe's tree."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

import yaml

from trustformers_pl.errors import RecipeError
from trustformers_pl.recipe.places import Leaf, Place, Section

if TYPE_CHECKING:
    from pathlib import Path

_Stock: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
BOOL, FLOAT, MERGE = "tag:yaml.org,2002:bool", "tag:yaml.org,2002:float", "tag:yaml.org,2002:merge"
MAPPING = "tag:yaml.org,2002:map"
DATE = "tag:yaml.org,2002:timestamp"


class RecipeLoader(_Stock):  # type: ignore[misc]
    """YAML 1.2's booleans and floats: `yes` is a string and `2e-3` a number, unlike in stock PyYAML."""


RecipeLoader.yaml_implicit_resolvers = {
    first: [pair for pair in pairs if pair[0] not in (BOOL, FLOAT, DATE)]
    for first, pairs in _Stock.yaml_implicit_resolvers.items()
}
RecipeLoader.add_implicit_resolver(BOOL, re.compile(r"^(?:true|True|TRUE|false|False|FALSE)$"), list("tTfF"))
RecipeLoader.add_implicit_resolver(
    FLOAT,
    re.compile(
        r"^[-+]?(?:(?:\d[\d_]*\.?\d*|\.\d+)[eE][-+]?\d+|\d[\d_]*\.\d*|\.\d+|\.(?:inf|Inf|INF))$|^\.(?:nan|NaN|NAN)$"
    ),
    list("-+.0123456789"),
)


def read_file(path: Path) -> Section:
    """The recipe file at `path` as a tree.

    Raises:
        RecipeError: The file cannot be read, is not UTF-8 or not YAML, is not a mapping, or a key stands twice in it.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise RecipeError(f"{path}: not UTF-8 (byte {error.start}); save the recipe as UTF-8 text") from error
    except OSError as error:
        raise RecipeError(f"{path}: {error.strerror or error}; give the path of a recipe file") from error
    try:
        return _read(text, str(path))
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        line = mark.line + 1 if mark else 1
        problem = getattr(error, "problem", None) or str(error).splitlines()[0]
        raise RecipeError(f"{path}:{line}: not YAML: {problem}; check brackets, quotes and indentation here") from error


def _read(text: str, source: str) -> Section:
    loader = RecipeLoader(text)
    try:
        node = loader.get_single_node()
        if node is None:
            return Section(Place(source, 1))
        if not isinstance(node, yaml.MappingNode):
            raise RecipeError(f"{source}:1: a recipe is a mapping of sections (`seed: 0`), not {_kind(node)}")
        return _section(loader, node, source, Place(source, 1))
    finally:
        loader.dispose()


def _kind(node: yaml.Node) -> str:
    return "a list" if isinstance(node, yaml.SequenceNode) else "a single value"


def _section(loader: Any, node: yaml.MappingNode, source: str, place: Place) -> Section:
    if node.tag != MAPPING:
        raise RecipeError(f"{place}: the tag {node.tag!r} is not read; write plain keys and values")
    section = Section(place)
    for key_node, value_node in node.value:
        here = Place(source, key_node.start_mark.line + 1)
        key = _key(loader, key_node, here)
        if key in section.entries:
            first = section.entries[key].place
            raise RecipeError(f"{here}: {key!r} stands twice (first at {first}); remove one of the two")
        if isinstance(value_node, yaml.MappingNode):
            section.entries[key] = _section(loader, value_node, source, here)
        else:
            section.entries[key] = Leaf(_value(loader, value_node, source), here)
    return section


def _key(loader: Any, node: yaml.Node, here: Place) -> str:
    if not isinstance(node, yaml.ScalarNode):
        raise RecipeError(f"{here}: a key is a word, not {_kind(node)}")
    if node.tag == MERGE:
        raise RecipeError(f"{here}: YAML merge keys (`<<`) are not read; use `extends: other.yaml`")
    key = loader.construct_object(node)
    return key if isinstance(key, str) else str(node.value)


def _value(loader: Any, node: yaml.Node, source: str) -> Any:
    for mapping in _mappings(node):
        _section(loader, mapping, source, Place(source, mapping.start_mark.line + 1))  # refuses duplicate keys
    try:
        return loader.construct_object(node, deep=True)
    except ValueError as error:
        raise RecipeError(f"{source}:{node.start_mark.line + 1}: {error}") from error


def _mappings(node: yaml.Node) -> list[yaml.MappingNode]:
    if isinstance(node, yaml.MappingNode):
        return [node]
    return [m for item in node.value for m in _mappings(item)] if isinstance(node, yaml.SequenceNode) else []


def read_value(text: str, place: Place) -> Leaf | Section:
    """One value as YAML, as given on the command line or in the environment.

    Raises:
        RecipeError: The text is not one YAML value.
    """
    loader = RecipeLoader(text)
    try:
        node = loader.get_single_node()
        if isinstance(node, yaml.MappingNode):
            return _at(_section(loader, node, str(place), place), place)
        return Leaf(None if node is None else _value(loader, node, str(place)), place)
    except yaml.YAMLError as error:
        raise RecipeError(f"{place}: {text!r} is not a YAML value; quote it") from error
    finally:
        loader.dispose()


def _at(node: Leaf | Section, place: Place) -> Leaf | Section:
    if isinstance(node, Leaf):
        return Leaf(node.value, place)
    return Section(place, {key: _at(child, place) for key, child in node.entries.items()})
