"""Whether there is room for what a memory keeps, asked before it is taken."""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import TYPE_CHECKING

from trustformers_pl.errors import DataError

if TYPE_CHECKING:
    from collections.abc import Callable


def disk_left(folder: Path) -> int:
    """Bytes that files in a folder can take, those that lie there included: they are written anew."""
    there = next(one for one in (folder, *folder.absolute().parents) if one.exists())
    own = sum(path.stat().st_size for path in folder.glob("*.rows"))
    return shutil.disk_usage(there).free + own


def memory_left() -> float:
    """Bytes that can be taken without swapping: Linux's `MemAvailable`, elsewhere all memory; infinite if unknown."""
    try:
        lines = Path("/proc/meminfo").read_text(encoding="ascii").splitlines()
        return 1024 * next(int(line.split()[1]) for line in lines if line.startswith("MemAvailable:"))
    except (OSError, StopIteration, ValueError, IndexError):
        pass
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (ValueError, OSError, AttributeError):
        return float("inf")


def refuse_no_room(
    wanted: int, what: str, folder: Path | None, section: str, memory: Callable[[], float] = memory_left
) -> None:
    """Refuse to take more than there is.

    Args:
        wanted: Bytes, of all ranks of this machine.
        what: Takes them, for the message.
        folder: Of the files; None for memory.
        section: Named in the error.
        memory: Tells the bytes of memory.

    Raises:
        DataError: There is less, or the folder cannot be written to.
    """
    if folder is None:
        if wanted > (left := memory()):
            raise DataError(
                f"{section}: {what} {wanted} bytes, and {left:.0f} bytes of memory are left; use where: disk, or less"
            )
    elif wanted > (left := disk_left(folder)):
        raise DataError(
            f"{section}: {what} {wanted} bytes, and {folder} has {left} left; choose another folder or less"
        )


def make_folder(folder: Path, section: str) -> None:
    """Make a folder.

    Raises:
        DataError: The system refuses.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise DataError(f"{section}: folder: {folder}: {error.strerror}; choose another one") from error
