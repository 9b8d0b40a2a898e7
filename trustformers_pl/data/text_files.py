"""Which files make up a text, and their bytes."""

from __future__ import annotations

import sysconfig
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from trustformers_pl.errors import DataError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from torch import Tensor

# Folders of the standard library that hold tests or other people's packages.
NOT_THE_LIBRARY = frozenset({"test", "tests", "idle_test", "site-packages", "dist-packages"})


def text_bytes(folder: str | None, pattern: str | None) -> Tensor:
    """Read and join the files of a folder, or of the standard library, in the order of their paths.

    Args:
        folder: Read recursively; None for the running Python's standard library without its tests.
        pattern: As `Path.rglob` reads it; None for `*` in a folder and `*.py` in the standard library.

    Returns:
        (number of bytes,) uint8.

    Raises:
        DataError: The folder is missing, no file matches, or one is unreadable or (outside the standard library) not
            UTF-8.
    """
    if folder is None:
        parts = list(_library_files(pattern or "*.py"))
    else:
        parts = [_read_utf8(path) for path in matching(Path(folder), pattern or "*")]
    joined = bytearray().join(parts)
    # torch.frombuffer refuses an empty buffer; too little text is the caller's to report.
    return torch.frombuffer(joined, dtype=torch.uint8) if joined else torch.empty(0, dtype=torch.uint8)


def _library_files(pattern: str) -> Iterator[bytes]:
    for path in matching(Path(sysconfig.get_paths()["stdlib"]), pattern, skip=NOT_THE_LIBRARY):
        content = _read(path)
        if _first_bad_byte(content) is None:
            yield content


def matching(root: Path, pattern: str, skip: frozenset[str] = frozenset()) -> list[Path]:
    """The files under a folder that match a pattern, in the order of their paths, but for those with a leading dot.

    Args:
        root: The folder.
        pattern: As `Path.rglob` reads it.
        skip: Names of folders that are left out.

    Raises:
        DataError: There is no such folder, or no such file.
    """
    if not root.is_dir():
        raise DataError(f"{root}: no such folder; give the path of a folder of text files")
    try:
        found = {path.relative_to(root): path for path in root.rglob(pattern) if path.is_file()}
    except (ValueError, NotImplementedError) as error:
        raise DataError(f"{root}: pattern {pattern!r} cannot be used ({error}); give one such as '*.txt'") from None
    names = [name for name in found if not _hidden(name) and not skip.intersection(name.parts[:-1])]
    if not names:
        raise DataError(f"{root}: no file matches {pattern!r}; change the pattern or the folder")
    return [found[name] for name in sorted(names, key=Path.as_posix)]


def is_utf8(path: Path) -> bool:
    """Whether the file's content is UTF-8."""
    return _first_bad_byte(_read(path)) is None


def _hidden(name: Path) -> bool:
    return any(part.startswith(".") for part in name.parts)


def _read_utf8(path: Path) -> bytes:
    content = _read(path)
    offset = _first_bad_byte(content)
    if offset is not None:
        raise DataError(f"{path}: not UTF-8 at byte {offset}; convert the file, or narrow `pattern` to leave it out")
    return content


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise DataError(f"{path}: {error.strerror}; make the file readable, or narrow `pattern`") from None


def _first_bad_byte(content: bytes) -> int | None:
    try:
        content.decode()
    except UnicodeDecodeError as error:
        return error.start
    return None
