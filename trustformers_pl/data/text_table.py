"""Columns of a table of texts: CSV, TSV or JSON Lines."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from trustformers_pl.errors import DataError
from trustformers_pl.names import nearest

if TYPE_CHECKING:
    from collections.abc import Iterator

SEPARATORS = {".csv": ",", ".tsv": "\t"}
JSON_LINES = (".jsonl", ".ndjson")
Row = tuple[int, dict[str, Any]]  # line, and column -> value


def read_columns(file: str, *columns: str) -> list[tuple[Any, ...]]:
    """The values of some columns, a tuple a row, in the order of the file.

    Args:
        file: `.csv` (with a header, RFC 4180), `.tsv` (likewise, separated by tabs) or `.jsonl`; UTF-8.
        columns: Their names.

    Returns:
        At least one row. Values are strings; of JSON Lines also numbers and booleans.

    Raises:
        DataError: The file cannot be read as that, is empty, or lacks a column or a value.
    """
    path = Path(file)
    try:
        rows = [_picked(row, columns, f"{file}:{line}") for line, row in _rows(path)]
    except UnicodeDecodeError as error:
        raise DataError(f"{file}: not UTF-8 ({error.reason}); convert the file") from error
    except OSError as error:
        raise DataError(f"{file}: {error.strerror}; give the path of a .csv, .tsv or .jsonl file") from error
    if not rows:
        raise DataError(f"{file}: there is no row in it; give a file with a row for each text")
    return rows


def _rows(path: Path) -> Iterator[Row]:
    kind = path.suffix.lower()
    if kind in SEPARATORS:
        return _csv_rows(path, SEPARATORS[kind])
    if kind in JSON_LINES:
        return _json_rows(path)
    raise DataError(f"{path}: {kind or 'no ending'} is not read; give a .csv, .tsv or .jsonl file")


def _csv_rows(path: Path, separator: str) -> Iterator[Row]:
    with path.open(encoding="utf-8-sig", newline="") as opened:
        reader = csv.DictReader(opened, delimiter=separator, strict=True)
        try:
            for row in reader:
                if None in row:
                    raise DataError(
                        f"{path}:{reader.line_num}: more values than the header has columns; quote the text"
                    )
                yield reader.line_num, row
        except csv.Error as error:
            raise DataError(
                f"{path}:{reader.line_num + 1}: not a table ({error}); quote texts that hold quotes"
            ) from error


def _json_rows(path: Path) -> Iterator[Row]:
    with path.open(encoding="utf-8-sig") as opened:
        for number, line in enumerate(opened, 1):
            if not line.strip():
                continue
            try:
                row = json.loads(line)
            except json.JSONDecodeError as error:
                raise DataError(f"{path}:{number}: not JSON ({error.msg}); give a JSON object a line") from error
            if not isinstance(row, dict):
                raise DataError(f'{path}:{number}: not a JSON object; give one a line, such as {{"text": "..."}}')
            yield number, row


def _picked(row: dict[str, Any], columns: tuple[str, ...], place: str) -> tuple[Any, ...]:
    missing = next((column for column in columns if column not in row), None)
    if missing is not None:
        raise DataError(f"{place}: no column {missing!r}; {nearest(missing, map(str, row))}")
    values = tuple(row[column] for column in columns)
    for column, value in zip(columns, values, strict=True):
        if value is None or value == "" or not isinstance(value, str | int | float):
            raise DataError(f"{place}: {column} is {_shown(value)}; give a value in every row")
    return values


def _shown(value: Any) -> str:
    return "empty" if value in (None, "") else f"a {type(value).__name__}"
