"""Writing a checkpoint folder: safetensors and JSON, synced, the manifest last, published by one rename."""

from __future__ import annotations

import errno
import json
import os
import shutil
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from trustformers_pl.checkpoint import manifest as manifests
from trustformers_pl.checkpoint.atomic import fsync_folder, make_folder, publish
from trustformers_pl.checkpoint.blocks import SIZE, BlockHashes
from trustformers_pl.checkpoint.codec import encode
from trustformers_pl.checkpoint.manifest import STATE, TENSORS, Entry, Manifest, sha256_of
from trustformers_pl.checkpoint.shards import Shards, sharded_leaves
from trustformers_pl.checkpoint.tensorfile import pack
from trustformers_pl.checkpoint.unfinished import finished, unfinished
from trustformers_pl.errors import CheckpointError
from trustformers_pl.gathering import rank_and_world_size

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from concurrent.futures import Executor

    from torch import Tensor

    Content = Sequence[bytes | memoryview]  # of a file, in order


def state_files(json_tree: Any, tensors: Mapping[str, Tensor]) -> dict[str, Content]:
    """Lay an encoded state out as files, without copying the tensors.

    Args:
        json_tree: From `encode`.
        tensors: From `encode`, of any shapes, or copies of them if training goes on during the write.

    Returns:
        The pieces of each file, for `write_folder`.
    """
    text = json.dumps(json_tree, allow_nan=False, separators=(",", ":"))
    return {TENSORS: pack(tensors), STATE: [text.encode()]}


def write_folder(path: str | Path, files: Mapping[str, Content], metadata: Mapping[str, Any] | None = None) -> None:
    """Write a checkpoint that is either there whole, synced to the disk, or not at all.

    The files go to a temporary folder beside `path`; the manifest comes last, then the rename. A checkpoint that is
    there already is replaced in one step (see `publish`).

    Args:
        path: The checkpoint folder; missing parents are made.
        files: The pieces of each file by its name; they must not change before this returns.
        metadata: JSON to keep in the manifest.

    Raises:
        CheckpointError: The disk is full, the place cannot be written to, or the metadata is not JSON. Nothing of the
            attempt remains and everything older is as it was.
    """
    final = Path(path).absolute()
    try:
        make_folder(final.parent)
        temporary = unfinished(final, "tmp")
        try:
            _fill(temporary, files, metadata or {})
            publish(temporary, final)
        finally:
            finished(temporary)
    except OSError as error:
        raise CheckpointError(f"{final}: checkpoint not written: {reason(final, files, error)}") from error


def write_state(path: str | Path, state: object, metadata: Mapping[str, Any] | None = None) -> None:
    """Write a state as a checkpoint: `encode`, `state_files` and `write_folder` in one.

    Args:
        path: The checkpoint folder.
        state: Anything that `encode` takes; tensors of any shape.
        metadata: JSON to keep in the manifest.

    Raises:
        CheckpointError: As `encode` and `write_folder` say; or other ranks hold pieces of the state.
    """
    shards = Shards(sharded_leaves(state))
    if others := shards.ranks() - {rank_and_world_size()[0]}:
        raise CheckpointError(
            f"{path}: checkpoint not written: rank {min(others)} holds pieces of the state; save by "
            "FolderCheckpointIO.save_checkpoint on every rank"
        )
    write_folder(path, state_files(*encode(state, shards=shards)), metadata)


def _fill(temporary: Path, files: Mapping[str, Content], metadata: Mapping[str, Any]) -> None:
    temporary.mkdir()
    entries = {name: write_file(temporary / name, pieces) for name, pieces in files.items()}
    write_file(temporary / manifests.NAME, [manifests.render(Manifest(entries, metadata))])
    fsync_folder(temporary)


def write_file(path: Path, pieces: Content) -> Entry:
    """Write a new file, synced to the disk.

    Args:
        path: The file; there must be none.
        pieces: Its bytes in order.

    Returns:
        Its entry for the manifest.

    Raises:
        OSError: It cannot be written; what there is of it stays.
    """
    # Hashing costs about as much as writing and neither holds the interpreter: they run at the same time.
    # By one thread, though the blocks are hashed once more: training wants the other processors.
    with ThreadPoolExecutor(1) as pool, path.open("xb") as file:
        sha256 = pool.submit(sha256_of, pieces)
        blocks = _blocks(pieces, pool)
        for piece in pieces:
            file.write(piece)
        file.flush()
        os.fsync(file.fileno())
        entry = Entry(file.tell(), sha256.result())
        return entry if blocks is None else replace(entry, block_size=SIZE, blocks=blocks.digests())


def _blocks(pieces: Content, pool: Executor) -> BlockHashes | None:
    """Of a large file each block has its own hash as well: whoever loads it checks them side by side."""
    if sum(memoryview(piece).nbytes for piece in pieces) <= SIZE:
        return None
    blocks = BlockHashes(SIZE, pool)
    for piece in pieces:
        blocks.take(piece)
    return blocks


def reason(path: Path, files: Mapping[str, Content], error: OSError) -> str:
    """Why the system refused to write, for a full disk with how much is missing, and what to do.

    Args:
        path: The checkpoint.
        files: What was to be written.
        error: What the system said.
    """
    cause = error.strerror or str(error)
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        needed = sum(memoryview(piece).nbytes for pieces in files.values() for piece in pieces)
        free = shutil.disk_usage(next(parent for parent in path.parents if parent.exists())).free
        cause += f" ({needed} bytes needed, {free} free, {max(needed - free, 0)} missing)"
    return f"{cause}; choose another folder or make room; older ones are untouched"
