"""The journal of a program: which children were started, and how they ended. Survives a kill at any moment."""

from __future__ import annotations

import json
import os
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from trustformers_pl.errors import CheckpointError, TrustformersError
from trustformers_pl.locking import open_locked

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

FILE = "journal.jsonl"


@dataclass(frozen=True)
class Entry:
    """The newest that the journal knows of a child.

    Attributes:
        digest: Of its recipe.
        batch: The number of the batch that it was yielded in.
        end: `status`, `metrics` and `error`; None while it runs.
    """

    digest: str
    batch: int
    end: Mapping[str, Any] | None = None


class Journal:
    """An append-only file of lines of JSON, each on the disk before the program goes on.

    The file is locked. Processes that inherit `descriptor` hold the lock too: it is free when the last of them is gone.
    """

    def __init__(self, folder: Path) -> None:
        """Open the journal of a program's folder, or begin one.

        Raises:
            RefusedError: Another process runs this program.
            CheckpointError: A line cannot be read. A last line that was cut off is dropped, not refused.
            TrustformersError: The folder cannot be written to.
        """
        self._path = folder / FILE
        self.descriptor = open_locked(self._path)
        try:
            self._entries: dict[str, Entry] = _entries(self._path, _whole_lines(self._path, self.descriptor))
        except BaseException:
            self.close()
            raise

    def entry(self, name: str) -> Entry | None:
        """What is known of a child."""
        return self._entries.get(name)

    def settled(self, name: str) -> Mapping[str, Any] | None:
        """A child's end, if it is not to be run again.

        It is if it has failed, unless the program has yielded a later batch since: what was decided then must hold.
        """
        entry = self._entries.get(name)
        if entry is None or entry.end is None:
            return None
        last_batch = max(other.batch for other in self._entries.values())
        return entry.end if entry.end["status"] == "finished" or entry.batch < last_batch else None

    def started(self, name: str, digest: str, batch: int) -> None:
        """Note that a child is about to start."""
        self._append({"event": "started", "child": name, "digest": digest, "batch": batch})
        self._entries[name] = Entry(digest, batch)

    def ended(self, name: str, end: Mapping[str, Any], seconds: float) -> None:
        """Note how a child that was started has ended: `status`, `metrics` and `error`."""
        entry = self._entries[name]
        line = {"event": "ended", "child": name, "digest": entry.digest, "batch": entry.batch}
        self._append({**line, "seconds": round(seconds, 3), **end})
        self._entries[name] = Entry(entry.digest, entry.batch, end)

    def close(self) -> None:
        """Close the file, and free the lock."""
        os.close(self.descriptor)

    def __enter__(self) -> Journal:
        """The journal itself."""
        return self

    def __exit__(self, *error: object) -> None:
        """Close it."""
        self.close()

    def _append(self, line: Mapping[str, Any]) -> None:
        now = datetime.now(UTC).isoformat(timespec="seconds")
        data = json.dumps({"at": now, **line}).encode() + b"\n"
        try:
            while data:
                data = data[os.write(self.descriptor, data) :]
            os.fsync(self.descriptor)
        except OSError as error:
            raise TrustformersError(f"{self._path}: {error.strerror}; make room, and call `fit` again") from error


def _whole_lines(path: Path, descriptor: int) -> list[bytes]:
    data = path.read_bytes()
    torn = data.rpartition(b"\n")[2]
    if torn:
        os.ftruncate(descriptor, len(data) - len(torn))
    return data[: len(data) - len(torn)].splitlines()


def _entries(path: Path, lines: list[bytes]) -> dict[str, Entry]:
    entries: dict[str, Entry] = {}
    for number, line in enumerate(lines, 1):
        try:
            read = json.loads(line)
            end = {key: read[key] for key in ("status", "metrics", "error")} if read["event"] == "ended" else None
            entries[str(read["child"])] = Entry(str(read["digest"]), int(read["batch"]), end)
        except (ValueError, KeyError, TypeError) as error:
            raise CheckpointError(
                f"{path}:{number}: not a line of a program's journal; restore the file from a copy, "
                "or start anew with --resume=never, which keeps this folder under another name"
            ) from error
    return entries
