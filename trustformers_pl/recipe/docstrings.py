"""What the author of a Config wrote under its fields: the string after each, which Python itself throws away."""

from __future__ import annotations

import ast
import inspect
from functools import cache
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator


def field_docstrings(cls: type) -> dict[str, str]:
    """Field -> its docstring on one line, of a dataclass and those that it inherits from.

    Args:
        cls: A class whose source can be read; where it cannot, nothing is found.
    """
    found: dict[str, str] = {}
    for ancestor in reversed(cls.__mro__):
        if ancestor.__module__ != "builtins":
            found |= dict(_documented(_body(ancestor)))
    return found


def _body(cls: type) -> list[ast.stmt]:
    statements = _statements(_source_file(cls))
    for name in cls.__qualname__.split("."):
        node = next((n for n in statements if isinstance(n, ast.ClassDef) and n.name == name), None)
        if node is None:
            return []
        statements = node.body
    return statements


def _source_file(cls: type) -> str | None:
    try:
        return inspect.getsourcefile(cls)
    except TypeError:  # of a module without a file
        return None


@cache
def _statements(file: str | None) -> list[ast.stmt]:
    try:
        return ast.parse(Path(file or "").read_text(encoding="utf-8")).body
    except (OSError, SyntaxError, UnicodeDecodeError):
        return []


def _documented(body: list[ast.stmt]) -> Iterator[tuple[str, str]]:
    for field, after in pairwise(body):
        if isinstance(field, ast.AnnAssign) and isinstance(field.target, ast.Name) and isinstance(after, ast.Expr):
            value = after.value
            if isinstance(value, ast.Constant) and isinstance(value.value, str):
                yield field.target.id, " ".join(value.value.split())
