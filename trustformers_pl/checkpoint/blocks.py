"""The sha256 of a large file's blocks, so that several processors check it. Needs neither torch nor Lightning."""

from __future__ import annotations

import hashlib
import os
from typing import TYPE_CHECKING

from trustformers_pl.checkpoint.manifest import sha256_of

if TYPE_CHECKING:
    from concurrent.futures import Executor, Future
    from pathlib import Path

    from trustformers_pl.checkpoint.manifest import Entry

SIZE = 2**25  # bytes of a block: some 20 ms of hashing
_BUFFER = 2**20
_MOST_THREADS = 8  # more than a disk is worth


class BlockHashes:
    """Takes the pieces of a file in order, and lets a pool hash each block of it as soon as it is there.

    Args:
        size: Of a block, in bytes.
        pool: hashlib holds no interpreter lock, so threads do.
    """

    def __init__(self, size: int, pool: Executor) -> None:
        self._size, self._pool = max(size, 1), pool
        self._open: list[memoryview] = []
        self._room = self._size
        self._found: list[Future[str]] = []

    def take(self, piece: bytes | memoryview) -> None:
        """Take the next piece; its memory must not change until `digests` has returned."""
        rest = memoryview(piece)
        while rest.nbytes:
            part, rest = rest[: self._room], rest[self._room :]
            self._open.append(part)
            self._room -= part.nbytes
            if not self._room:
                self._close()

    def _close(self) -> None:
        self._found.append(self._pool.submit(sha256_of, self._open))
        self._open, self._room = [], self._size

    def digests(self) -> tuple[str, ...]:
        """The sha256 of each block in order, hexadecimal; of an empty file one, of nothing."""
        if self._open or not self._found:
            self._close()
        return tuple(one.result() for one in self._found)


def digests_of(path: Path, entry: Entry, pool: Executor) -> tuple[str, ...]:
    """Read a file, and hash the blocks that its entry in the manifest has.

    Raises:
        OSError: It cannot be read.
    """
    starts = range(0, max(entry.size, 1), entry.checked_size)
    return tuple(pool.map(lambda start: _digest(path, start, entry.checked_size), starts))


def _digest(path: Path, start: int, left: int) -> str:
    digest, buffer = hashlib.sha256(), memoryview(bytearray(min(_BUFFER, left)))
    with path.open("rb", buffering=0) as file:
        file.seek(start)
        while left and (count := file.readinto(buffer[:left])):
            digest.update(buffer[:count])
            left -= count
    return digest.hexdigest()


def threads_for(entry: Entry) -> int:
    """How many threads check a file: one a block, and no more than there are processors."""
    processors = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, min(len(entry.checked), processors, _MOST_THREADS))
