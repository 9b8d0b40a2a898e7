"""What installed distributions offer, read again only after something was installed or removed."""

from __future__ import annotations

import sys
from functools import lru_cache
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from importlib.metadata import EntryPoints

State = tuple[tuple[str, int, int], ...]


def entry_points(group: str) -> EntryPoints:
    """Of all distributions that can be imported. Installing one changes a folder of `sys.path`, and so is noticed."""
    return _read(group, _state(), tuple(sys.meta_path))


@lru_cache(maxsize=8)
def _read(group: str, state: State, finders: tuple[object, ...]) -> EntryPoints:
    del state, finders
    return metadata.entry_points(group=group)


def _state() -> State:
    """Each place that modules are imported from: its path, and what changes with its contents."""
    found = []
    for path in sys.path:
        try:
            status = Path(path).stat()
        except OSError:
            continue
        found.append((path, status.st_ino, status.st_mtime_ns))
    return tuple(found)
