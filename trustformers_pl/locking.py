"""One process at a time: a file that is opened and locked in one go."""

from __future__ import annotations

import fcntl
import os
import time
from typing import TYPE_CHECKING

from trustformers_pl.durable import sync_folder
from trustformers_pl.errors import RefusedError, TrustformersError

if TYPE_CHECKING:
    from pathlib import Path

# The guards of a program that was killed need some milliseconds to end its children.
LOCK_SECONDS = 10.0


def open_locked(path: Path) -> int:
    """Open a file for appending and lock it, making it and its folder if need be.

    Processes that inherit the descriptor hold the lock too: it is free when the last of them has closed it.

    Returns:
        The descriptor.

    Raises:
        RefusedError: Another process holds the lock, and has not freed it within `LOCK_SECONDS`.
        TrustformersError: The folder cannot be written to.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(path, os.O_RDWR | os.O_APPEND | os.O_CREAT, 0o644)
        sync_folder(path.parent)
        _wait_for_lock(path, descriptor)
    except OSError as error:
        raise TrustformersError(f"{path}: {error.strerror}; choose another --trainer.default_root_dir") from error
    return descriptor


def _wait_for_lock(path: Path, descriptor: int) -> None:
    deadline = time.monotonic() + LOCK_SECONDS
    while True:
        try:
            return fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            if time.monotonic() > deadline:
                os.close(descriptor)
                raise RefusedError(
                    f"{path.parent}: another process runs this program; wait for it, or end it first"
                ) from error
            time.sleep(0.05)
