"""A recipe in layers: `extends`, the file, the environment, the command line. Later layers win."""

from __future__ import annotations

from typing import TYPE_CHECKING

from trustformers_pl.errors import RecipeError
from trustformers_pl.names import on_one_line
from trustformers_pl.recipe.marked_yaml import read_file, read_value
from trustformers_pl.recipe.places import Leaf, Place, Section

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping
    from pathlib import Path

ENVIRONMENT_PREFIX = "TFPL_"
# Switches of the program itself, not values of a recipe.
RESERVED_VARIABLES = frozenset({"TFPL_DEBUG", "TFPL_LOOP", "TFPL_TRACE"})


def read_layers(path: Path, seen: tuple[Path, ...] = ()) -> Section:
    """The file at `path` over the ones that it `extends` (a path or a list of paths, relative to the file).

    Raises:
        RecipeError: A file cannot be read, or extends itself.
    """
    resolved = _resolved(path)
    if resolved in seen:
        raise RecipeError(f"{path}: extends itself through {' -> '.join(p.name for p in (*seen, resolved))}")
    own = read_file(path)
    merged = Section(own.place)
    for parent in _parents(own):
        if not _is_file(path.parent / parent):
            place = own.entries["extends"].place
            raise RecipeError(f"{place}: extends: {on_one_line(parent)}: no such file; paths are relative to {path}")
        merged = merge(merged, read_layers(path.parent / parent, (*seen, resolved)))
    own.entries.pop("extends", None)
    return merge(merged, own)


def _resolved(path: Path) -> Path:
    try:
        return path.resolve()
    except (ValueError, RuntimeError, OSError) as error:  # a null byte, links in a circle
        raise RecipeError(f"{on_one_line(str(path))}: {error}; give the path of a recipe file") from error


def _parents(own: Section) -> list[str]:
    node = own.entries.get("extends")
    if node is None:
        return []
    value = node.value if isinstance(node, Leaf) else None
    parents = [value] if isinstance(value, str) else value
    if not isinstance(parents, list) or not all(isinstance(parent, str) for parent in parents):
        raise RecipeError(f"{node.place}: extends: expected a path or a list of paths of recipe files")
    return parents


def merge(base: Section, top: Section) -> Section:
    """`top` over `base`, key by key; a class path that changes takes its `init_args` from `top` alone."""
    entries = dict(base.entries)
    if _class_path(base) and _class_path(top) not in (None, _class_path(base)):
        entries.pop("init_args", None)
    for key, node in top.entries.items():
        below = entries.get(key)
        both = isinstance(below, Section) and isinstance(node, Section)
        entries[key] = merge(below, node) if both else node  # type: ignore[arg-type]
    return Section(top.place if top.entries else base.place, entries)


def _class_path(section: Section) -> object:
    return section.leaf("class_path")


def put(tree: Section, dotted: str, node: Leaf | Section) -> Section:
    """The tree with one value set at a dotted key."""
    for part in reversed(dotted.split(".")):
        node = Section(node.place, {part: node})
    merged = merge(tree, node) if isinstance(node, Section) else tree
    return Section(tree.place, {key: _keep_place(tree, key, child) for key, child in merged.entries.items()})


def _keep_place(tree: Section, key: str, child: Leaf | Section) -> Leaf | Section:
    before = tree.entries.get(key)
    both = isinstance(before, Section) and isinstance(child, Section)
    return Section(before.place, child.entries) if both else child  # type: ignore[union-attr]


def apply_environment(tree: Section, environment: Mapping[str, str]) -> Section:
    """`TFPL_SECTION__KEY=value` over a value of a section that is there; it never switches a feature on."""
    for variable in sorted(environment):
        if not variable.startswith(ENVIRONMENT_PREFIX) or variable in RESERVED_VARIABLES:
            continue
        dotted = variable.removeprefix(ENVIRONMENT_PREFIX).lower().replace("__", ".")
        present = tree.entries.get(dotted.partition(".")[0])
        if present is not None and not is_null(present):
            tree = put(tree, dotted, read_value(environment[variable], Place(f"${variable}")))
    return tree


def environment_sections(environment: Mapping[str, str]) -> dict[str, str]:
    """Variable -> the section that it names, whether or not the recipe has it (to refuse misspelt ones)."""
    ours = [v for v in sorted(environment) if v.startswith(ENVIRONMENT_PREFIX) and v not in RESERVED_VARIABLES]
    return {v: v.removeprefix(ENVIRONMENT_PREFIX).lower().partition("__")[0] for v in ours}


def apply_overrides(tree: Section, overrides: Iterable[str]) -> Section:
    """`section.key=value` (with or without leading dashes) and `no-section`, in the order given.

    Raises:
        RecipeError: An override of another form.
    """
    for override in overrides:
        text = override.removeprefix("--")
        key, equals, value = text.partition("=")
        place = Place(f"--{key}")
        if equals and key:
            tree = put(tree, key, read_value(value, place))
        elif text.startswith("no-") and text != "no-" and not {".", "="} & set(text):
            tree = put(tree, text.removeprefix("no-").replace("-", "_"), Leaf(None, place))
        else:
            shown = on_one_line(override)
            raise RecipeError(f"{shown}: not understood; write --section.key=value, or --no-section to take one out")
    return tree


def is_null(node: Leaf | Section) -> bool:
    """Whether a layer takes a section out here."""
    return isinstance(node, Leaf) and node.value is None


def without_nulls(tree: Section) -> Section:
    """The tree without the sections that a later layer took out with `null`."""
    return Section(tree.place, {key: node for key, node in tree.entries.items() if not is_null(node)})


def removed_sections(tree: Section) -> dict[str, Place]:
    """Those sections, and where they were taken out."""
    return {key: node.place for key, node in tree.entries.items() if is_null(node)}


def _is_file(path: Path) -> bool:
    try:
        return path.is_file()
    except OSError:  # a name longer than any file's
        return False
