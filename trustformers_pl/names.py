"""Names in messages: the nearest one that exists, and all of them on one line."""

from __future__ import annotations

import difflib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable

LISTED_IN_FULL = 12


def nearest(name: str, known: Iterable[str]) -> str:
    """A clause that ends an error message: `did you mean 'x'?`, or the names there are."""
    names = sorted(known)
    match = difflib.get_close_matches(name, names, n=1, cutoff=0.5)
    if match:
        return f"did you mean {match[0]!r}?"
    if not names:
        return "there are none"
    shown = names[:LISTED_IN_FULL]
    more = f" and {len(names) - len(shown)} more" if len(names) > len(shown) else ""
    return f"known: {', '.join(shown)}{more}"


def on_one_line(text: str) -> str:
    """The text, with line breaks and what else could upset a terminal escaped as in a Python string."""
    return "".join(char if char.isprintable() else ascii(char)[1:-1] for char in text)
