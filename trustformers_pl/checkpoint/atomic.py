"""Renames and syncs: how a folder appears under its final name, or replaces another, without being seen half."""

from __future__ import annotations

import ctypes
import errno
import os
import sys
from typing import TYPE_CHECKING

from trustformers_pl.checkpoint.unfinished import finished, unfinished

if TYPE_CHECKING:
    from pathlib import Path

_EXCHANGE, _HERE = 2, -100  # RENAME_EXCHANGE and AT_FDCWD of renameat2(2)


def fsync_folder(path: Path) -> None:
    """Make the names in a folder survive a power cut.

    Args:
        path: The folder.

    Raises:
        OSError: It cannot be opened or synced.
    """
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def make_folder(path: Path) -> None:
    """Make a folder and its parents, each durably.

    Args:
        path: The folder; it may exist.

    Raises:
        OSError: It cannot be made.
    """
    if path.exists() and not path.is_dir():
        raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR), str(path))
    if not path.exists():
        make_folder(path.parent)
        path.mkdir(exist_ok=True)
        fsync_folder(path.parent)


def exchange(first: Path, second: Path) -> bool:
    """Swap two names in one atomic step, as `renameat2(RENAME_EXCHANGE)` of Linux does.

    Args:
        first: One existing name.
        second: The other, on the same file system.

    Returns:
        Whether it was done; False where the system or the file system has no such call.

    Raises:
        OSError: It was refused for another reason.
    """
    rename = getattr(ctypes.CDLL(None, use_errno=True), "renameat2", None) if sys.platform == "linux" else None
    if rename is None:
        return False
    if rename(_HERE, os.fsencode(first), _HERE, os.fsencode(second), _EXCHANGE) == 0:
        return True
    code = ctypes.get_errno()
    if code in (errno.ENOSYS, errno.EINVAL, errno.ENOTSUP):
        return False
    raise OSError(code, os.strerror(code), str(second))


def swap_aside(temporary: Path, final: Path) -> None:
    """Replace `final` in two renames, for file systems that cannot exchange two names.

    Between them `final` is missing; if the process dies there, `clean` moves the old one back.

    Args:
        temporary: The finished folder.
        final: What it replaces.

    Raises:
        OSError: A rename failed; then `final` is what it was.
    """
    aside = unfinished(final, "old")
    final.rename(aside)
    try:
        temporary.rename(final)
    except OSError:
        aside.rename(final)
        raise
    finally:
        finished(aside)


def publish(temporary: Path, final: Path) -> None:
    """Give a finished folder its final name, durably, replacing what has that name (a folder, a file or a link).

    There is no moment in which `final` is missing, except on file systems that need `swap_aside`.

    Args:
        temporary: The finished folder, synced; afterwards the name is free.
        final: Its name from now on, in the same folder.

    Raises:
        OSError: A rename or the sync failed; the names are then either as before or as wanted.
    """
    if not (final.exists() or final.is_symlink()):
        temporary.rename(final)
    elif not exchange(temporary, final):
        swap_aside(temporary, final)
    fsync_folder(final.parent)
    finished(temporary)  # by now the content that was replaced
