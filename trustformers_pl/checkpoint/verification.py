"""Whether a checkpoint's files are those that its manifest lists. Needs neither torch nor Lightning."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING

from trustformers_pl.checkpoint import manifest as manifests
from trustformers_pl.checkpoint.blocks import digests_of, threads_for
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
        with ThreadPoolExecutor(threads_for(entry)) as pool:
            found = digests_of(path, entry, pool)
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


def check_sha256(path: Path, entry: Entry, found: tuple[str, ...]) -> None:
    """Compare the sha256 of a file, or those of its blocks, with its entry's.

    Raises:
        CheckpointError: They differ.
    """
    for number, (expected, one) in enumerate(zip(entry.checked, found, strict=True)):
        if one != expected:
            where = f" from byte {number * entry.block_size}" if entry.blocks else ""
            raise CheckpointError(f"{path}: sha256 differs{where}: expected {expected}, found {one}; {MEND}")


def _cause(error: CheckpointError, path: Path) -> str:
    return str(error).removeprefix(f"{path}: ").rpartition("; ")[0]
