"""Tables by column: Parquet, and the Arrow files that Hugging Face `datasets` writes; read in batches of rows."""

from __future__ import annotations

import importlib
import json
from typing import TYPE_CHECKING, Any

from trustformers_pl.errors import DataError, RefusedError
from trustformers_pl.names import nearest

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from pathlib import Path

ROWS_AT_ONCE = 1024


def parquet_rows(path: Path, columns: tuple[str, ...]) -> Iterator[tuple[str, dict[str, Any]]]:
    """Rows of a Parquet file, with their places.

    Raises:
        DataError: It is no Parquet file, or lacks a column.
        RefusedError: `pyarrow` is not installed.
    """
    pyarrow = _pyarrow()
    try:
        with importlib.import_module("pyarrow.parquet").ParquetFile(path) as file:
            _refuse_missing(path, columns, file.schema_arrow.names)
            yield from _rows(path, file.iter_batches(batch_size=ROWS_AT_ONCE, columns=list(columns)))
    except pyarrow.ArrowException as error:
        raise DataError(f"{path}: not a Parquet file ({_first_line(error)}); give another file") from error


def arrow_rows(path: Path, columns: tuple[str, ...], split: str | None) -> Iterator[tuple[str, dict[str, Any]]]:
    """Rows of a folder that `Dataset.save_to_disk` has written, or of one split of a `DatasetDict`'s.

    Raises:
        DataError: It is no such folder, has no such split, or lacks a column.
        RefusedError: `pyarrow` is not installed.
    """
    pyarrow, splits = _pyarrow(), arrow_splits(path)
    if splits is None:
        raise DataError(
            f"{path}: no folder of datasets.save_to_disk (neither state.json nor dataset_dict.json is in it)"
        )
    if splits and split not in splits:
        raise DataError(f"{path}: no split {split!r}; {nearest(str(split), splits)}")
    folder = path / split if splits and split else path
    for name in _data_files(folder):
        try:
            with pyarrow.memory_map(str(folder / name)) as mapped:
                stream = pyarrow.ipc.open_stream(mapped)
                _refuse_missing(folder, columns, stream.schema.names)
                yield from _rows(folder / name, (batch.select(list(columns)) for batch in stream))
        except pyarrow.ArrowException as error:
            raise DataError(f"{folder / name}: damaged ({_first_line(error)}); save the dataset again") from error


def arrow_splits(folder: Path) -> list[str] | None:
    """The splits of a folder that `datasets` has written; empty if it is one table, None if it is something else."""
    if (folder / "dataset_dict.json").is_file():
        return list(_json(folder / "dataset_dict.json")["splits"])
    return [] if (folder / "state.json").is_file() else None


def arrow_class_names(folder: Path, split: str | None, column: str) -> list[str] | None:
    """The names behind a column of class numbers (`datasets.ClassLabel`), or None."""
    file = (folder / split if split else folder) / "dataset_info.json"
    features = _json(file).get("features") if file.is_file() else None
    found = (features or {}).get(column, {})
    return found.get("names") if isinstance(found, dict) else None


def arrow_files(folder: Path) -> list[Path]:
    """All data files of such a folder, in order."""
    parts = [folder / split for split in arrow_splits(folder) or []] or [folder]
    return [part / name for part in parts for name in _data_files(part)]


def _data_files(folder: Path) -> list[str]:
    try:
        return [str(file["filename"]) for file in _json(folder / "state.json")["_data_files"]]
    except (OSError, KeyError, TypeError) as error:
        raise DataError(
            f"{folder / 'state.json'}: not readable ({_first_line(error)}); save the dataset again"
        ) from error


def _rows(path: Path, batches: Iterable[Any]) -> Iterator[tuple[str, dict[str, Any]]]:
    number = 0
    for batch in batches:
        for row in batch.to_pylist():
            number += 1
            yield f"{path}: row {number}", row


def _refuse_missing(path: Path, columns: tuple[str, ...], present: list[str]) -> None:
    for column in columns:
        if column not in present:
            raise DataError(f"{path}: no column {column!r}; {nearest(column, present)}")


def _json(file: Path) -> Any:
    try:
        return json.loads(file.read_text(encoding="utf-8"))
    except ValueError as error:
        raise DataError(f"{file}: not JSON ({_first_line(error)}); save the dataset again") from error


def _first_line(error: Exception) -> str:
    return next(iter(str(error).splitlines()), type(error).__name__)


def _pyarrow() -> Any:
    try:
        return importlib.import_module("pyarrow")
    except ImportError as error:
        raise RefusedError(
            "data: Parquet files and folders of datasets need the package pyarrow; install trustformers-pl[data]"
        ) from error
