"""A CSV file of numbers keyed by step, whose columns may grow while it is written."""

from __future__ import annotations

import csv
import io
import os
from typing import TYPE_CHECKING

from trustformers_pl.errors import TrustformersError
from trustformers_pl.tracking.rows import keep_lines, rewrite, whole_lines, writing

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path


def csv_line(cells: Sequence[str]) -> str:
    """Join cells into one line of CSV (RFC 4180, but ended by a bare newline).

    Args:
        cells: The cells, without newlines.

    Returns:
        The line, with its newline.
    """
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerow(cells)
    return text.getvalue()


def csv_cells(line: str) -> list[str]:
    """Split one line of CSV, the inverse of `csv_line`.

    Args:
        line: A line of CSV, with or without its newline.

    Returns:
        Its cells.
    """
    return next(csv.reader([line]), [])


class Table:
    """An open CSV file whose first column is `step`.

    Rows of one step that follow each other are merged as long as they do not contradict each other, so that a step's
    training and validation metrics share a row. Each row reaches the operating system before `add` returns.

    Args:
        path: The file. It and its folder are made when missing; a row torn by a kill is dropped.

    Raises:
        TrustformersError: The file cannot be written, or is a CSV of something else.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        with writing(path):
            path.parent.mkdir(parents=True, exist_ok=True)
        self._open()

    def _open(self) -> None:
        lines = whole_lines(self._path)
        self._columns = csv_cells(lines[0]) if lines else ["step", "epoch"]
        if self._columns[0] != "step":
            raise TrustformersError(
                f"{self._path}: not a file of metrics: its first column is {self._columns[0]!r}, not 'step'; "
                "move it away or name another file"
            )
        # A kill while a row is widened in place leaves it with a wrong number of cells.
        if len(lines) > 1 and len(csv_cells(lines[-1])) != len(self._columns):
            lines.pop()
        self._last = dict(zip(self._columns, csv_cells(lines[-1]), strict=True)) if len(lines) > 1 else {}
        self._end = sum(len(line.encode()) for line in lines)
        self._start = self._end - len(lines[-1].encode()) if self._last else self._end
        with writing(self._path):
            self._file = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
            os.ftruncate(self._file, self._end)
        if not lines:
            self._write(csv_line(self._columns))
            self._start = self._end

    @property
    def next_step(self) -> int:
        """The step after the last row's, 0 in an empty file."""
        return int(self._last["step"]) + 1 if self._last else 0

    def add(self, row: Mapping[str, str]) -> None:
        """Append a row, or merge it into the last one when both are of one step and agree in what both hold.

        Args:
            row: `step` (an integer) and any number of metrics, as text.

        Raises:
            TrustformersError: The file cannot be written.
        """
        self._grow([name for name in row if name not in self._columns])
        if self._last and all(self._last[name] in ("", text) for name, text in row.items()):
            self._last |= row
        else:
            self._last, self._start = dict.fromkeys(self._columns, "") | dict(row), self._end
        self._write(csv_line([self._last[name] for name in self._columns]))

    def _grow(self, names: list[str]) -> None:
        if not names:
            return
        header, *rows = whole_lines(self._path)
        empty = "," * len(names)
        self.close()
        rewrite(
            self._path,
            [csv_line([*csv_cells(header), *names]), *(line.removesuffix("\n") + empty + "\n" for line in rows)],
        )
        self._open()

    def _write(self, line: str) -> None:
        """Put `line` where the last row starts: a merged row is never shorter than the row it replaces."""
        content, place = line.encode(), self._start
        with writing(self._path):
            while content:
                written = os.pwrite(self._file, content, place)
                content, place = content[written:], place + written
        self._end = place

    def drop_from(self, step: int) -> None:
        """Take out, atomically, the rows of `step` and of all later steps.

        Args:
            step: The first step whose rows go.

        Raises:
            TrustformersError: The file cannot be written.
        """
        self.close()
        keep_lines(self._path, lambda line: line.startswith("step,") or int(csv_cells(line)[0]) < step)
        self._open()

    def close(self) -> None:
        """Close the file."""
        os.close(self._file)
