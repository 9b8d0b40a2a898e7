"""Reading a checkpoint folder: nothing is believed before its size and sha256 are what the manifest says."""

from __future__ import annotations

import json
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any

from trustformers_pl.checkpoint import manifest as manifests
from trustformers_pl.checkpoint.blocks import BlockHashes, threads_for
from trustformers_pl.checkpoint.codec import decode
from trustformers_pl.checkpoint.manifest import STATE, TENSORS, Entry, parts_of, sha256_of
from trustformers_pl.checkpoint.tensorfile import unpack
from trustformers_pl.checkpoint.verification import MEND, check_sha256, check_size, verify_file
from trustformers_pl.errors import CheckpointError

if TYPE_CHECKING:
    from collections.abc import Callable

    import torch
    from torch import Tensor


def read_folder(
    path: str | Path,
    *,
    device: torch.device | None = None,
    mapped: bool = False,
    pieces: bool = False,
    share: tuple[int, int] = (0, 1),
) -> tuple[Any, dict[str, Any]]:
    """Verify a checkpoint and load it, reading and hashing each file once.

    Args:
        path: The checkpoint folder.
        device: Where tensors go (numpy arrays stay in host memory); without it they are on the CPU.
        mapped: Map the tensors' files into memory instead of reading them into memory of their own. Tensors that lay on
            several ranks are put together in memory of their own in any case, except as `pieces`.
        pieces: Give these as `Pieces`, mapped into memory.
        share: Hash, beside the state's tree, only each n-th file from the m-th on, (m, n); of the others only the size
            is checked, and somebody else hashes them. Only with `mapped` or `pieces`, which read nothing that is not
            used.

    Returns:
        The state as it was given to `write_state`, tensors with their shapes and dtypes, and the manifest's metadata.

    Raises:
        CheckpointError: As `verify` says, or the state was written by something newer or foreign.
    """
    folder = Path(path)
    manifest = manifests.read(folder)
    if missing := {TENSORS, STATE} - manifest.files.keys():
        raise CheckpointError(f"{folder}: its manifest does not list {min(missing)}; {MEND}")
    parts = parts_of(manifest.files)
    checked = set(sorted(manifest.files.keys() - {STATE})[share[0] :: share[1]])
    for name in checked - {TENSORS, *parts.values()}:
        verify_file(folder / name, manifest.files[name])
    # Pieces that were first read into memory would be there twice when they are put together.
    mapping = mapped or pieces or bool(parts)
    files = {
        rank: _read_tensors(folder / name, manifest.files[name], mapped=mapping, hashed=name in checked)
        for rank, name in {0: TENSORS, **parts}.items()
    }
    tree = _read_tree(folder / STATE, manifest.files[STATE])
    try:
        own = mapping and not (mapped or pieces)
        return decode(tree, files.pop(0), parts=files, device=device, pieces=pieces, own=own), dict(manifest.metadata)
    except CheckpointError as error:
        raise CheckpointError(f"{folder / STATE}: {error}") from error


def load(path: str | Path, *, device: torch.device | None = None) -> dict[str, Any]:
    """Load a checkpoint's state for use outside a Trainer, verified, nothing executed.

    Args:
        path: The checkpoint folder.
        device: Where tensors go; without it they are on the CPU.

    Returns:
        What the Trainer saved: `state_dict` (the module's tensors by name, in their shapes and dtypes), `epoch`,
        `global_step`, `optimizer_states`, `callbacks`, `loops` and what hooks added.

    Raises:
        CheckpointError: The folder is no checkpoint, is damaged, newer or foreign, or holds no dict.
    """
    state, _ = read_folder(path, device=device)
    if not isinstance(state, dict):
        raise CheckpointError(f"{path}: it holds a {type(state).__name__}, not a dict; read it with read_folder")
    return state


def _read_tensors(path: Path, entry: Entry, *, mapped: bool, hashed: bool) -> dict[str, Tensor]:
    check_size(path, entry)
    if not hashed:
        return _unpacked(path, bool, mapped=mapped)
    # Hashing takes longer than reading, and neither holds the interpreter: blocks are hashed while others are read.
    with ThreadPoolExecutor(threads_for(entry)) as pool:
        hashes = BlockHashes(entry.checked_size, pool)
        tensors = _unpacked(path, hashes.take, mapped=mapped)
        check_sha256(path, entry, hashes.digests())
    return tensors


def _unpacked(path: Path, take: Callable[[memoryview], object], *, mapped: bool) -> dict[str, Tensor]:
    try:
        return unpack(path, take, mapped=mapped)
    except OSError as error:
        raise CheckpointError(f"{path}: {error.strerror}; {MEND}") from error


def _read_tree(path: Path, entry: Entry) -> Any:
    check_size(path, entry)
    try:
        text = path.read_bytes()
        check_sha256(path, Entry(entry.size, entry.sha256), (sha256_of([text]),))
        return json.loads(text)
    except (OSError, RecursionError, ValueError) as error:
        raise CheckpointError(f"{path}: unreadable: {error}; {MEND}") from error
