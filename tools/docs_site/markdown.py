"""Pieces of Markdown."""

from __future__ import annotations

import inspect
import re
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence


def table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A table; cells may hold Markdown on one line."""
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join("| " + " | ".join(_cell(cell) for cell in line) + " |" for line in lines)


def _cell(text: str) -> str:
    pieces = " ".join(text.split()).split("`")  # a bar in a code span does not end the cell, and is shown as written
    return "`".join(piece if number % 2 else piece.replace("|", "\\|") for number, piece in enumerate(pieces))


def code(text: str) -> str:
    """Text in a code span."""
    return f"`{text}`"


def fence(language: str, text: str) -> str:
    """A block of code."""
    return f"```{language}\n{text.rstrip()}\n```"


def docstring(of: object) -> str:
    """An object's own docstring, without its indentation; empty where it has none."""
    return inspect.cleandoc(getattr(of, "__doc__", None) or "")


def first_line(text: str) -> str:
    """The summary of a docstring."""
    return text.partition("\n")[0]


def anchor(*words: str) -> str:
    """A name for a heading: `optimizer.adamw` is `optimizer-adamw`."""
    return re.sub(r"[^\w]+", "-", "-".join(words)).lower()
