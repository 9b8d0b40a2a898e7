"""Text for language modelling, wherever it lies, read piece by piece: never all of it is in memory."""

from __future__ import annotations

import sysconfig
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal, NamedTuple

from trustformers_pl.data.arrow_table import arrow_files
from trustformers_pl.data.sides import SIDES, Side, own_splits, side_of
from trustformers_pl.data.text_files import NOT_THE_LIBRARY, is_utf8, matching
from trustformers_pl.data.text_pieces import file_pieces
from trustformers_pl.data.text_table import TableFormat, table_format, table_rows
from trustformers_pl.errors import DataError

if TYPE_CHECKING:
    from collections.abc import Iterator

TextFormat = Literal["text", "csv", "tsv", "jsonl", "parquet", "datasets"]


class Piece(NamedTuple):
    """Part of a document.

    Attributes:
        side: The split that it belongs to.
        text: Not empty, unless the document is.
        ends: Whether the document ends here, in this split.
    """

    side: Side
    text: str
    ends: bool


@dataclass(frozen=True)
class TextSource:
    """Where text lies and how it is divided.

    Files of plain text are documents in the order of their paths, and the end of all of them is held out, by bytes. The
    rows of a table are documents, and their texts say which are held out (`side_of`), unless the table brings splits.

    Attributes:
        path: A file or a folder; None: the standard library of the running Python, without its tests.
        format: How it is read; None: as its ending tells. A folder whose files are tables is read by the ending in
            `pattern`.
        pattern: Which files of a folder, as `Path.rglob` reads it.
        column: The column of a table.
        val_fraction: Share that is held out for validation.
        test_fraction: Share that is held out for testing, the very end.
        split_seed: Another one holds out other rows.
    """

    path: str | None
    format: TextFormat | None = None
    pattern: str | None = None
    column: str = "text"
    val_fraction: float = 0.05
    test_fraction: float = 0.0
    split_seed: int = 0

    @property
    def name(self) -> str:
        """For messages."""
        return self.path or "standard library"

    def files(self) -> list[Path]:
        """Everything that is read, in order.

        Raises:
            DataError: Nothing is there, or no file matches.
        """
        if self.path is None:
            found = matching(Path(sysconfig.get_paths()["stdlib"]), self.pattern or "*.py", skip=NOT_THE_LIBRARY)
            return [path for path in found if is_utf8(path)]
        path = Path(self.path)
        if path.is_dir():
            return arrow_files(path) if self.kind == "datasets" else matching(path, self.pattern or "*")
        if not path.exists():
            raise DataError(f"{path}: no such file or folder; give the path of text files or of a table")
        return [path]

    def division(self) -> tuple[object, ...]:
        """All that splits and documents follow from, beside the content of the files."""
        splits = sorted(own_splits(self.path or "").items()) if self.kind == "datasets" else None
        return self.kind, self.column, self.val_fraction, self.test_fraction, self.split_seed, splits

    def pieces(self) -> Iterator[Piece]:
        """All of the text, each document whole before the next one.

        Raises:
            DataError: Something is not readable, not UTF-8, or not the table that it should be: names file and line.
        """
        kind = self.kind
        return self._text_pieces() if kind == "text" else self._row_pieces(kind)

    @property
    def kind(self) -> TextFormat:
        """The format that is read, given or found."""
        if self.format is not None:
            return self.format
        if self.path is None:
            return "text"
        path = Path(self.path)
        wanted = table_format(path)
        if wanted is None and path.is_dir() and self.pattern:
            wanted = table_format(Path(self.pattern))
        return wanted or "text"

    def _text_pieces(self) -> Iterator[Piece]:
        files = self.files()
        total = sum(path.stat().st_size for path in files)
        held_out, tested = int(total * (self.val_fraction + self.test_fraction)), int(total * self.test_fraction)
        cuts, offset = {"train": total - held_out, "val": total - tested, "test": total}, 0
        for path in files:
            for content, ends in file_pieces(path):
                rest = content
                for side in SIDES:
                    room = cuts[side] - offset
                    part, rest = _cut(rest, room) if side != "test" else (rest, b"")
                    if part or (ends and not rest and offset < cuts[side]):
                        offset += len(part)
                        # A document that goes on behind a cut ends there, and another one begins.
                        yield Piece(side, part.decode(), bool(rest) or ends or offset >= cuts[side])
                    if not rest:
                        break

    def _row_pieces(self, kind: TableFormat) -> Iterator[Piece]:
        if kind == "datasets":
            splits = own_splits(str(self.path))
            for side, split in splits.items():
                yield from self._rows_of(Path(str(self.path)), kind, side, split, set(splits))
        else:
            for path in self.files():
                yield from self._rows_of(path, kind, "train", None, {"train"})

    def _rows_of(self, path: Path, kind: TableFormat, side: Side, split: str | None, own: set[Side]) -> Iterator[Piece]:
        val, test = (0.0 if name in own else share for name, share in self._shares())
        for place, row in table_rows(path, (self.column,), kind=kind, split=split):
            text = row[self.column]
            if not isinstance(text, str):
                what = "empty" if text is None else f"a {type(text).__name__}"
                raise DataError(f"{place}: {self.column} is {what}; give a text in every row")
            _refuse_surrogates(text, place, self.column)
            yield Piece(side_of(text, val, test, self.split_seed) if side == "train" else side, text, ends=True)

    def _shares(self) -> tuple[tuple[Side, float], tuple[Side, float]]:
        return ("val", self.val_fraction), ("test", self.test_fraction)


def _cut(content: bytes, room: int) -> tuple[bytes, bytes]:
    """What fits, and the rest; a character is not cut in two."""
    end = max(0, min(room, len(content)))
    while end < len(content) and end > 0 and content[end] & 0xC0 == 0x80:
        end += 1
    return content[:end], content[end:]


def _refuse_surrogates(text: str, place: str, column: str) -> None:
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise DataError(f"{place}: {column} holds half a character ({error.reason}); mend the text") from error
