"""Files of plain text in pieces that are cut where tokenizers cut too."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from trustformers_pl.errors import DataError

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

SIZE = 1 << 16  # the trainer of `bpe` takes 256 pieces at once
# Between two lines neither of which is empty or indented, no tokenizer that splits at white space joins what it finds.
_BETWEEN_LINES = re.compile(rb"(?<=[^\s]\n)(?=[^\s])")


def file_pieces(path: Path, size: int = SIZE) -> Iterator[tuple[bytes, bool]]:
    """The bytes of a file in pieces of about `size`, and whether the file ends with each.

    Args:
        path: A file of UTF-8.
        size: Bytes.

    Yields:
        Whole characters, and whole lines where they are shorter than `size`; at least one piece.

    Raises:
        DataError: The file is not readable, or not UTF-8.
    """
    done, kept = 0, b""
    try:
        with path.open("rb") as file:
            while read := file.read(size):
                content = kept + read
                end = _last_cut(content)
                _refuse_not_utf8(path, content[:end], done)
                if end:
                    yield content[:end], False
                done, kept = done + end, content[end:]
    except OSError as error:
        raise DataError(f"{path}: {error.strerror}; make the file readable, or narrow `pattern`") from error
    _refuse_not_utf8(path, kept, done)
    yield kept, True


def _last_cut(content: bytes) -> int:
    """Where to cut: between two lines if that can be, else before the last character."""
    position = len(content)
    for _ in range(64):
        position = content.rfind(b"\n", 0, position)
        if position < 0:
            break
        if _BETWEEN_LINES.match(content, position + 1):
            return position + 1
    end = len(content) - 1
    while end > 0 and content[end] & 0xC0 == 0x80:
        end -= 1
    return end


def _refuse_not_utf8(path: Path, content: bytes, offset: int) -> None:
    try:
        content.decode()
    except UnicodeDecodeError as error:
        raise DataError(
            f"{path}: not UTF-8 at byte {offset + error.start}; convert the file, or narrow `pattern` to leave it out"
        ) from None
