"""A draft as the text of a recipe: each value beside where it is from, and above them what was not carried over."""

from __future__ import annotations

import textwrap
from typing import TYPE_CHECKING, Any

from trustformers_pl.recipe.writing import flow

if TYPE_CHECKING:
    from collections.abc import Iterator

    from trustformers_pl.arguments.draft import Draft, Left

WIDTH = 100
ORDER = ("seed", "model", "data", "trainer", "optimizer", "schedule", "precision", "clip", "accumulate", "checkpoint")
MODEL = ["# model: {class_path: my_package.MyModule}"]
DATA = ["  # class_path: my_package.MyData"]


def as_recipe(draft: Draft, command: str, extends: str | None = None) -> str:
    """The text.

    Args:
        draft: The sections.
        command: That made it, for the first line.
        extends: A recipe that has the model and the data; otherwise both are left open, as comments.
    """
    head = [f"# Written by: {command}"]
    if extends is None:
        head.append("# Give it `model` and `data.class_path`, or `extends:` a recipe that has them.")
    head += [line for left in _heading(draft.left) for line in left]
    body = ["version: 1"] if extends is None else [f"extends: {flow(extends)}"]
    body += MODEL if extends is None else []
    sections = draft.sections
    for section in sorted(sections, key=lambda name: ORDER.index(name) if name in ORDER else len(ORDER)):
        body += _section(draft, section, sections[section], open_data=extends is None)
    return "\n".join([*head, "", *body, ""])


def _heading(left: list[Left]) -> Iterator[list[str]]:
    if left:
        yield ["#", "# Not carried over, or not to the letter:"]
    for item in left:
        text = f"- {item.name} = {flow(item.value)}: {item.why}"
        yield [f"# {line}" for line in textwrap.wrap(text, WIDTH, subsequent_indent="  ", break_on_hyphens=False)]


def _section(draft: Draft, name: str, value: Any, *, open_data: bool) -> list[str]:
    lines = list(_lines(draft, name, name, value, ""))
    return [lines[0], *DATA, *lines[1:]] if name == "data" and open_data else lines


def _lines(draft: Draft, dotted: str, key: str, value: Any, indent: str) -> Iterator[str]:
    if isinstance(value, dict) and value:
        yield f"{indent}{key}:"
        for inner, child in value.items():
            yield from _lines(draft, f"{dotted}.{inner}", inner, child, f"{indent}  ")
    else:
        yield f"{indent}{key}: {flow(value)}  # {draft.origins[dotted]}"
