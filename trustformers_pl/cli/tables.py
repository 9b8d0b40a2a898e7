"""Tables for people: aligned, with the last wide column wrapped to the terminal, and plain when piped."""

from __future__ import annotations

import os
import shutil
import sys
import textwrap

GAP = "  "
NARROWEST = 24


def print_table(header: list[str], rows: list[list[str]]) -> None:
    """Print rows under a header; on a terminal the widest column wraps so that no line is too long."""
    table = [header, *rows]
    widths = [max(1, *(len(row[column]) for row in table)) for column in range(len(header))]
    if sys.stdout.isatty():
        _narrow(widths, shutil.get_terminal_size().columns)
    for number, row in enumerate(table):
        for line in _lines(row, widths):
            print(_bold(line) if number == 0 else line)


def _narrow(widths: list[int], available: int) -> None:
    excess = sum(widths) + len(GAP) * (len(widths) - 1) - available
    widest = widths.index(max(widths))
    if excess > 0:
        widths[widest] = max(NARROWEST, widths[widest] - excess)


def _lines(row: list[str], widths: list[int]) -> list[str]:
    cells = [textwrap.wrap(cell, width) or [""] for cell, width in zip(row, widths, strict=True)]
    height = max(map(len, cells))
    filled = [cell + [""] * (height - len(cell)) for cell in cells]
    return [
        GAP.join(f"{part:<{w}}" for part, w in zip(parts, widths, strict=True)).rstrip()
        for parts in zip(*filled, strict=True)
    ]


def _bold(text: str) -> str:
    return f"\033[1m{text}\033[0m" if sys.stdout.isatty() and "NO_COLOR" not in os.environ else text
