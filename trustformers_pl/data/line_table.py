"""Tables with a row a line: CSV, TSV and JSON Lines."""

from __future__ import annotations

import csv
import json
from typing import TYPE_CHECKING, Any

from trustformers_pl.errors import DataError

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

LONGEST_FIELD = 2**31 - 1  # the csv module's own limit, 128 KiB, is less than a book


def csv_rows(path: Path, separator: str) -> Iterator[tuple[str, dict[str, Any]]]:
    """Rows of a table with a header (RFC 4180), with their places.

    Raises:
        DataError: It is not UTF-8, or not such a table.
    """
    csv.field_size_limit(LONGEST_FIELD)
    reader = csv.DictReader(_lines(path), delimiter=separator, strict=True)
    try:
        for row in reader:
            if None in row:
                raise DataError(f"{path}:{reader.line_num}: more values than the header has columns; quote the text")
            yield f"{path}:{reader.line_num}", row
    except csv.Error as error:
        raise DataError(f"{path}:{reader.line_num + 1}: not a table ({error}); quote texts that hold quotes") from error


def json_rows(path: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    """The JSON object of each line that is not empty, with its place.

    Raises:
        DataError: A line is not UTF-8, or no JSON object.
    """
    for number, line in enumerate(_lines(path), 1):
        if not line.strip():
            continue
        place = f"{path}:{number}"
        try:
            row = json.loads(line)
        except json.JSONDecodeError as error:
            raise DataError(f"{place}: not JSON ({error.msg}); give a JSON object a line") from error
        if not isinstance(row, dict):
            raise DataError(f'{place}: not a JSON object; give one a line, such as {{"text": "..."}}')
        yield place, row


def _lines(path: Path) -> Iterator[str]:
    """Decoded one by one, so that a message can name the line."""
    with path.open("rb") as opened:
        for number, line in enumerate(opened, 1):
            try:
                yield line.decode("utf-8-sig" if number == 1 else "utf-8")
            except UnicodeDecodeError as error:
                raise DataError(
                    f"{path}:{number}: not UTF-8 ({error.reason} at byte {error.start} of the line); convert the file"
                ) from error
