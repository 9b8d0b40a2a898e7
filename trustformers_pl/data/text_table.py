"""Columns of a table of texts: CSV, TSV, JSON Lines, Parquet, or a folder that Hugging Face `datasets` has written."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from trustformers_pl.data.arrow_table import arrow_rows, arrow_splits, parquet_rows
from trustformers_pl.data.line_table import csv_rows, json_rows
from trustformers_pl.errors import DataError
from trustformers_pl.names import nearest

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

TableFormat = Literal["csv", "tsv", "jsonl", "parquet", "datasets"]
Row = tuple[str, dict[str, Any]]  # place, and column -> value
ENDINGS: dict[str, TableFormat] = {
    ".csv": "csv",
    ".tsv": "tsv",
    ".jsonl": "jsonl",
    ".ndjson": "jsonl",
    ".parquet": "parquet",
}
KINDS = "a .csv, .tsv, .jsonl or .parquet file, or a folder of datasets.save_to_disk"


def table_format(path: Path) -> TableFormat | None:
    """The format that a file's ending, or a folder's content, tells; None if neither does."""
    if path.is_dir():
        return "datasets" if arrow_splits(path) is not None else None
    return ENDINGS.get(path.suffix.lower())


def read_columns(
    file: str, *columns: str, kind: TableFormat | None = None, split: str | None = None
) -> list[tuple[Any, ...]]:
    """The values of some columns, a tuple a row, in the order of the table.

    Args:
        file: `.csv` (with a header, RFC 4180), `.tsv` (likewise, separated by tabs), `.jsonl`, UTF-8; `.parquet`; or a
            folder of `datasets.save_to_disk`.
        columns: Their names.
        kind: The format, where the ending does not tell.
        split: Which one of a folder with several.

    Returns:
        At least one row. Values are strings; where the format knows them, also numbers and booleans.

    Raises:
        DataError: The file cannot be read as that, is empty, or lacks a column or a value.
    """
    rows = [_filled(row, columns, place) for place, row in table_rows(Path(file), columns, kind=kind, split=split)]
    if not rows:
        raise DataError(f"{file}: there is no row in it; give a file with a row for each text")
    return rows


def table_rows(
    path: Path, columns: tuple[str, ...], *, kind: TableFormat | None = None, split: str | None = None
) -> Iterator[Row]:
    """The rows of a table one by one, with their place for messages; never all of them are in memory.

    Args:
        path: The table.
        columns: Those that are needed: formats by column read no other.
        kind: The format, where the ending does not tell.
        split: Which one of a folder with several.

    Yields:
        Rows that have the columns.

    Raises:
        DataError: The file cannot be read as that, or lacks a column.
    """
    kind = kind or table_format(path)
    if not path.exists():
        raise DataError(f"{path}: No such file or directory; give the path of {KINDS}")
    if kind is None:
        raise DataError(f"{path}: {path.suffix or 'no ending'} is not read; give {KINDS}, or say its format")
    try:
        for place, row in _READERS[kind](path, columns, split):
            missing = next((column for column in columns if column not in row), None)
            if missing is not None:
                raise DataError(f"{place}: no column {missing!r}; {nearest(missing, map(str, row))}")
            yield place, row
    except OSError as error:
        raise DataError(f"{path}: {error.strerror or error}; give the path of {KINDS}") from error


_READERS: dict[TableFormat, Callable[[Path, tuple[str, ...], str | None], Iterator[Row]]] = {
    "csv": lambda path, _, __: csv_rows(path, ","),
    "tsv": lambda path, _, __: csv_rows(path, "\t"),
    "jsonl": lambda path, _, __: json_rows(path),
    "parquet": lambda path, columns, _: parquet_rows(path, columns),
    "datasets": arrow_rows,
}


def _filled(row: dict[str, Any], columns: tuple[str, ...], place: str) -> tuple[Any, ...]:
    values = tuple(row[column] for column in columns)
    for column, value in zip(columns, values, strict=True):
        if value is None or value == "" or not isinstance(value, str | int | float):
            raise DataError(f"{place}: {column} is {_shown(value)}; give a value in every row")
    return values


def _shown(value: Any) -> str:
    return "empty" if value in (None, "") else f"a {type(value).__name__}"
