"""Whether a checkpoint's files are those that its manifest lists. Needs neither torch nor Lightning."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import TYPE_CHECKING

from trustformers_pl.checkpoint import manifest as manifests
from trustformers_pl.errors import CheckpointError

if TYPE_CHECKING:
    from trustformers_pl.checkpoint.manifest import Entry

MEND = "use another checkpoint"


def verify(path: str | Path) -> None:
    """Check a checkpoint against its manifest, reading every byte.

    Args:
        path: The checkpoint folder.

    Raises:
        CheckpointError: A file is missing, of another size or another content; the first one is named. Or the manifest
            is missing, damaged or of a newer format.
    """
    folder = Path(path)
    for name, entry in manifests.read(folder).files.items():
        verify_file(folder / name, entry)


def damaged(path: str | Path) -> dict[str, str]:
    """Check every file of a checkpoint, reading every byte, and go on after a damaged one.

    Args:
        path: The checkpoint folder.

    Returns:
        Name -> what is wrong, for each damaged or missing file; empty where the checkpoint is whole.
    """
    folder = Path(path)
    try:
        manifest = manifests.read(folder)
    except CheckpointError as error:
        return {manifests.NAME: _cause(error, folder / manifests.NAME)}
    found = {}
    for name, entry in manifest.files.items():
        try:
            verify_file(folder / name, entry)
        except CheckpointError as error:
            found[name] = _cause(error, folder / name)
    return found


def verify_file(path: Path, entry: Entry) -> None:
    """Check one file against its entry in the manifest, reading every byte.

    Raises:
        CheckpointError: It is missing, unreadable, of another size or another content.
    """
    check_size(path, entry)
    try:
        with path.open("rb") as file:
            found = hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise CheckpointError(f"{path}: {error.strerror}; {MEND}") from error
    check_sha256(path, entry, found)


def check_size(path: Path, entry: Entry) -> None:
    """Check a file's size, reading nothing of it.

    Raises:
        CheckpointError: It is missing or of another size.
    """
    try:
        size = path.stat().st_size
    except FileNotFoundError:
        raise CheckpointError(f"{path}: missing; {MEND}") from None
    except OSError as error:
        raise CheckpointError(f"{path}: {error.strerror}; {MEND}") from error
    if size != entry.size:
        raise CheckpointError(f"{path}: expected {entry.size} bytes, found {size}; {MEND}")


def check_sha256(path: Path, entry: Entry, found: str) -> None:
    """Compare a file's sha256 with its entry's.

    Raises:
        CheckpointError: They differ.
    """
    if found != entry.sha256:
        raise CheckpointError(f"{path}: sha256 differs: expected {entry.sha256}, found {found}; {MEND}")


def _cause(error: CheckpointError, path: Path) -> str:
    return str(error).removeprefix(f"{path}: ").rpartition("; ")[0]
