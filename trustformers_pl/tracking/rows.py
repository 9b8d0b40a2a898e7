"""Line files that survive `kill -9`: whole lines are appended, and lines are only taken out by an atomic rewrite."""

from __future__ import annotations

import os
from contextlib import contextmanager
from typing import TYPE_CHECKING

from trustformers_pl.errors import TrustformersError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator
    from pathlib import Path


@contextmanager
def writing(path: Path) -> Iterator[None]:
    """Turn an OSError met while writing `path` into one line.

    Args:
        path: The file that is written.

    Yields:
        Nothing.

    Raises:
        TrustformersError: The file cannot be written: full disk, missing right, a folder that is a file.
    """
    try:
        yield
    except OSError as error:
        cause = error.strerror or str(error)
        raise TrustformersError(f"{path}: cannot be written: {cause}; free space or name a writable folder") from error


def whole_lines(path: Path) -> list[str]:
    """Read the lines of `path` that were written to their end.

    Args:
        path: A text file; it need not exist.

    Returns:
        Its lines, each with its newline, without a last line torn by a kill.
    """
    if not path.exists():
        return []
    # Torn bytes first, for they may end inside a character; and not `splitlines`, which knows more than newlines.
    *lines, _torn = path.read_bytes().split(b"\n")
    return [line.decode() + "\n" for line in lines]


def rewrite(path: Path, lines: Iterable[str]) -> None:
    """Replace the content of `path` atomically: whoever is killed in between leaves the old file.

    Args:
        path: The file to replace.
        lines: Its new lines, each with its newline.

    Raises:
        TrustformersError: The file cannot be written.
    """
    temporary = path.with_name(f".{path.name}.tmp")
    with writing(path):
        with temporary.open("w", encoding="utf-8", newline="") as file:
            file.writelines(lines)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)


def keep_lines(path: Path, keep: Callable[[str], bool]) -> None:
    """Take out of `path`, atomically, a torn last line and each line that `keep` refuses.

    Args:
        path: The file; it need not exist.
        keep: Says of a whole line, newline included, whether it stays.

    Raises:
        TrustformersError: The file cannot be written.
    """
    kept = [line for line in whole_lines(path) if keep(line)]
    if path.exists() and path.stat().st_size != sum(len(line.encode()) for line in kept):
        rewrite(path, kept)


def append(path: Path, line: str) -> None:
    """Add one line, given to the operating system before this returns.

    Args:
        path: The file; it and its folder are made when missing.
        line: The line, with its newline.

    Raises:
        TrustformersError: The file cannot be written.
    """
    with writing(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("a", encoding="utf-8", newline="") as file:
            file.write(line)
