"""YAML with places: PyYAML's nodes carry line marks, which survive into the recipe's tree."""

from __future__ import annotations

import math
import re
from typing import TYPE_CHECKING, Any

import yaml

from trustformers_pl.errors import RecipeError
from trustformers_pl.names import on_one_line
from trustformers_pl.recipe.node_checks import check_nodes
from trustformers_pl.recipe.places import Leaf, Place, Section

if TYPE_CHECKING:
    from pathlib import Path

_Stock: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
INT, BOOL, FLOAT = "tag:yaml.org,2002:int", "tag:yaml.org,2002:bool", "tag:yaml.org,2002:float"
MERGE, DATE = "tag:yaml.org,2002:merge", "tag:yaml.org,2002:timestamp"


class RecipeLoader(_Stock):  # type: ignore[misc]
    """YAML 1.2's scalars: `yes` and `1:30` are strings, `2e-3` is a number and `012` twelve, unlike in stock PyYAML."""


RecipeLoader.yaml_implicit_resolvers = {
    first: [pair for pair in pairs if pair[0] not in (INT, BOOL, FLOAT, DATE)]
    for first, pairs in _Stock.yaml_implicit_resolvers.items()
}
RecipeLoader.add_implicit_resolver(BOOL, re.compile(r"^(?:true|True|TRUE|false|False|FALSE)$"), list("tTfF"))
RecipeLoader.add_implicit_resolver(
    INT, re.compile(r"^(?:[-+]?\d[\d_]*|0o[0-7]+|0x[0-9a-fA-F]+)$"), list("-+0123456789")
)
RecipeLoader.add_implicit_resolver(
    FLOAT,
    re.compile(
        r"^[-+]?(?:(?:\d[\d_]*\.?\d*|\.\d+)[eE][-+]?\d+|\d[\d_]*\.\d*|\.\d+|\.(?:inf|Inf|INF))$|^\.(?:nan|NaN|NAN)$"
    ),
    list("-+.0123456789"),
)


def _construct_int(loader: Any, node: yaml.ScalarNode) -> int:
    del loader
    text = node.value.replace("_", "")
    value = int(text, {"0o": 8, "0x": 16}.get(text[:2], 10))
    str(value)  # raises ValueError for one that Python would not print
    return value


def _construct_float(loader: Any, node: yaml.ScalarNode) -> float:
    value: float = loader.construct_yaml_float(node)
    if math.isinf(value) and not node.value.lower().endswith("inf"):
        raise ValueError(f"{node.value} is larger than a number can be (1.8e308); write .inf for infinity")
    return value


RecipeLoader.add_constructor(INT, _construct_int)
RecipeLoader.add_constructor(FLOAT, _construct_float)


def read_file(path: Path) -> Section:
    """The recipe file at `path` as a tree.

    Raises:
        RecipeError: The file cannot be read, is not UTF-8 or not YAML, is not a mapping, or a key stands twice in it.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise RecipeError(f"{path}: not UTF-8 (byte {error.start}); save the recipe as UTF-8 text") from error
    except (OSError, ValueError) as error:  # ValueError: a null byte in the name
        cause = getattr(error, "strerror", None) or error
        raise RecipeError(f"{on_one_line(str(path))}: {cause}; give the path of a recipe file") from error
    try:
        return _read(text, str(path))
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        line = mark.line + 1 if mark else 1
        problem = on_one_line(getattr(error, "problem", None) or str(error).splitlines()[0])
        raise RecipeError(f"{path}:{line}: not YAML: {problem}; check brackets, quotes and indentation here") from error
    except RecursionError as error:
        raise RecipeError(f"{path}: brackets or indentation too deep to be meant; write it flatter") from error


def _read(text: str, source: str) -> Section:
    loader = RecipeLoader(text)
    try:
        node = loader.get_single_node()
        if node is None:
            return Section(Place(source, 1))
        if not isinstance(node, yaml.MappingNode):
            raise RecipeError(f"{source}:1: a recipe is a mapping of sections (`seed: 0`), not {_kind(node)}")
        check_nodes(loader, node, source)
        return _section(loader, node, source, Place(source, 1))
    finally:
        loader.dispose()


def _kind(node: yaml.Node) -> str:
    return "a list" if isinstance(node, yaml.SequenceNode) else "a single value"


def _section(loader: Any, node: yaml.MappingNode, source: str, place: Place) -> Section:
    section = Section(place)
    for key_node, value_node in node.value:
        here = Place(source, key_node.start_mark.line + 1)
        key = _key(key_node, here)
        if key in section.entries:
            first = section.entries[key].place
            raise RecipeError(f"{here}: {key!r} stands twice (first at {first}); remove one of the two")
        if isinstance(value_node, yaml.MappingNode):
            section.entries[key] = _section(loader, value_node, source, here)
        else:
            section.entries[key] = Leaf(_value(loader, value_node, source), here)
    return section


def _key(node: yaml.Node, here: Place) -> str:
    if not isinstance(node, yaml.ScalarNode):
        raise RecipeError(f"{here}: a key is a word, not {_kind(node)}")
    if node.tag == MERGE:
        raise RecipeError(f"{here}: YAML merge keys (`<<`) are not read; use `extends: other.yaml`")
    return str(node.value)


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
    try:
        return _read_value(text, place)
    except (yaml.YAMLError, UnicodeEncodeError, RecursionError) as error:
        raise RecipeError(f"{place}: {text!r} is not a YAML value; quote it") from error


def _read_value(text: str, place: Place) -> Leaf | Section:
    loader = RecipeLoader(text)
    try:
        node = loader.get_single_node()
        if node is None:
            return Leaf(None, place)
        check_nodes(loader, node, str(place))
        if isinstance(node, yaml.MappingNode):
            return _at(_section(loader, node, str(place), place), place)
        return Leaf(_value(loader, node, str(place)), place)
    finally:
        loader.dispose()


def _at(node: Leaf | Section, place: Place) -> Leaf | Section:
    if isinstance(node, Leaf):
        return Leaf(node.value, place)
    return Section(place, {key: _at(child, place) for key, child in node.entries.items()})
