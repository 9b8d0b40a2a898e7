"""What YAML allows and no recipe needs: tags, aliases that contain themselves, and aliases that explode."""

from __future__ import annotations

from typing import Any

import yaml

from trustformers_pl.errors import RecipeError
from trustformers_pl.names import on_one_line

SEQUENCE, MAPPING = "tag:yaml.org,2002:seq", "tag:yaml.org,2002:map"
STRING, MERGE = "tag:yaml.org,2002:str", "tag:yaml.org,2002:merge"
MOST_VALUES = 1_000_000


def check_nodes(loader: Any, root: yaml.Node, source: str) -> None:
    """Walk through a document once, whatever its aliases make of it.

    Args:
        loader: Whose rules say what a plain scalar is.
        root: The document.
        source: Its file, or the flag or variable that it is from.

    Raises:
        RecipeError: A tag; a value inside itself; aliases that make more than a million values.
        RecursionError: It is nested too deeply.
    """
    sizes: dict[int, int | None] = {}

    def size(node: yaml.Node) -> int:
        known = sizes.get(id(node), 0)
        if known is None:
            raise RecipeError(f"{_place(node, source)}: a value that contains itself; write it without an alias")
        if known:
            return known
        sizes[id(node)] = None
        _refuse_tag(loader, node, source)
        total = 1 + sum(size(child) for child in _children(node))
        if total > MOST_VALUES:
            raise RecipeError(f"{_place(node, source)}: its aliases make more than {MOST_VALUES:,} values; write fewer")
        sizes[id(node)] = total
        return total

    size(root)


def _children(node: yaml.Node) -> list[yaml.Node]:
    if isinstance(node, yaml.MappingNode):
        return [child for pair in node.value for child in pair]
    return list(node.value) if isinstance(node, yaml.SequenceNode) else []


def _refuse_tag(loader: Any, node: yaml.Node, source: str) -> None:
    if isinstance(node, yaml.ScalarNode):
        plain = node.style not in ("'", '"', "|", ">")
        wanted = loader.resolve(yaml.ScalarNode, node.value, (plain, not plain))
    else:
        wanted = MAPPING if isinstance(node, yaml.MappingNode) else SEQUENCE
    if node.tag not in (wanted, STRING, MERGE):
        tag = on_one_line(node.tag)
        raise RecipeError(f"{_place(node, source)}: the tag {tag!r} is not read; write plain keys and values")


def _place(node: yaml.Node, source: str) -> str:
    return source if source.startswith(("--", "$")) else f"{source}:{node.start_mark.line + 1}"
