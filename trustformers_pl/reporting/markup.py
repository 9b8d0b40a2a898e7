"""HTML from untrusted text: everything that comes from a run is escaped here, and nowhere else is a tag made of it."""

from __future__ import annotations

import json
from functools import cache
from html import escape
from typing import TYPE_CHECKING, Any

from trustformers_pl.report import shown

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from markdown_it import MarkdownIt

    from trustformers_pl.report import Cell


def tag(name: str, content: str, /, **attributes: str) -> str:
    """An element.

    Args:
        name: Of the tag.
        content: HTML, escaped already.
        **attributes: Raw text; `class_` is written `class`, other underscores as hyphens.
    """
    written = "".join(f' {key.rstrip("_").replace("_", "-")}="{escape(value)}"' for key, value in attributes.items())
    return f"<{name}{written}>{content}</{name}>"


def text(raw: object) -> str:
    """Text, escaped."""
    return escape(str(raw))


def table(
    columns: Sequence[str], rows: Sequence[Sequence[Cell]], *, marked: Mapping[tuple[int, int], str] | None = None
) -> str:
    """A table that scrolls sideways where the page is narrow.

    Args:
        columns: The header, raw.
        rows: Cells, raw; a column whose cells are all numbers stands right.
        marked: (row, column) -> the class of that cell.
    """
    numbers = ["number" if _is_numeric([row[i] for row in rows]) else "" for i in range(len(columns))]
    head = "".join(_cell("th", name, [numbers[i]]) for i, name in enumerate(columns))
    lines = [
        "".join(_cell("td", cell, [numbers[c], (marked or {}).get((r, c), "")]) for c, cell in enumerate(row))
        for r, row in enumerate(rows)
    ]
    body = "".join(f"<tr>{line}</tr>" for line in lines)
    return f'<div class="scroll"><table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>'


def _cell(name: str, cell: Cell, classes: list[str]) -> str:
    class_ = " ".join(filter(None, classes))
    return tag(name, text(shown(cell)), **({"class_": class_} if class_ else {}))


def _is_numeric(cells: list[Cell]) -> bool:
    return any(cell is not None for cell in cells) and all(
        cell is None or isinstance(cell, int | float) for cell in cells
    )


def markdown(source: str) -> str:
    """Markdown as HTML: HTML in it is shown as text, and pictures, which would be fetched, as their links."""
    rendered: str = _renderer().render(source)
    return tag("div", rendered, class_="markdown")


@cache
def _renderer() -> MarkdownIt:
    from markdown_it import MarkdownIt

    return MarkdownIt("commonmark", {"html": False}).enable(["table", "strikethrough"]).disable("image")


def data(value: Any, name: str) -> str:
    """JSON in the page, under an id, that no text in it can end: `<`, `>` and `&` stand as escapes of JSON's own."""
    content = json.dumps(value, separators=(",", ":"), allow_nan=False)  # ASCII: line separators are escapes, too
    for char in "<>&":
        content = content.replace(char, f"\\u{ord(char):04x}")
    return f'<script type="application/json" id="{escape(name)}">{content}</script>'
