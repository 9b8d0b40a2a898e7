"""`manifest.json`: which files a checkpoint has, their sizes and sha256, and what the writer says about it."""

from __future__ import annotations

import hashlib
import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from trustformers_pl.errors import CheckpointError

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

NAME = "manifest.json"
TENSORS, STATE = "tensors.safetensors", "state.json"  # the files that every checkpoint has
FORMAT = 1
_PART = re.compile(r"tensors-(\d{5,})-of-\d{5,}\.safetensors", re.ASCII)


def part_name(rank: int, ranks: int) -> str:
    """The file of the tensors that a rank other than 0 writes."""
    return f"tensors-{rank:05d}-of-{ranks:05d}.safetensors"


def parts_of(names: Iterable[str]) -> dict[int, str]:
    """Those of a checkpoint's files that ranks other than 0 have written, by rank."""
    return {int(match[1]): name for name in sorted(names) if (match := _PART.fullmatch(name))}


@dataclass(frozen=True)
class Entry:
    """One file of a checkpoint.

    Attributes:
        size: Bytes.
        sha256: Hexadecimal.
        block_size: Bytes of each block of a large file; 0 where it has none.
        blocks: The sha256 of each of them.
    """

    size: int
    sha256: str
    block_size: int = 0
    blocks: tuple[str, ...] = ()

    @property
    def checked(self) -> tuple[str, ...]:
        """The digests by which the file is checked: those of its blocks, or the one of the whole."""
        return self.blocks or (self.sha256,)

    @property
    def checked_size(self) -> int:
        """Bytes that each of `checked` is of; the last may be of fewer."""
        return self.block_size if self.blocks else max(self.size, 1)

    def written(self) -> dict[str, Any]:
        """As JSON."""
        blocks = {"block_size": self.block_size, "blocks": list(self.blocks)} if self.blocks else {}
        return {"size": self.size, "sha256": self.sha256, **blocks}


@dataclass(frozen=True)
class Manifest:
    """What a checkpoint folder holds.

    Attributes:
        files: By name, without the manifest itself.
        metadata: JSON of the writer: epoch, step, versions and so on.
    """

    files: Mapping[str, Entry]
    metadata: Mapping[str, Any]

    @property
    def not_finite(self) -> str | None:
        """The first tensor of weights or optimizer that is not finite; empty if all are, None if nobody has looked."""
        if "finite" not in self.metadata:
            return None
        return "" if self.metadata["finite"] else str(self.metadata.get("not_finite", "its state"))


def finite_or_not(bad: str | None) -> dict[str, Any]:
    """What a manifest's metadata tells of the state.

    Args:
        bad: The first tensor that is not finite, if there is one.
    """
    return {"finite": True} if bad is None else {"finite": False, "not_finite": bad}


def sha256_of(pieces: Iterable[bytes | memoryview]) -> str:
    """Hash a file that is in memory.

    Args:
        pieces: The file's bytes in order.

    Returns:
        Its sha256, hexadecimal.
    """
    digest = hashlib.sha256()
    for piece in pieces:
        digest.update(piece)
    return digest.hexdigest()


def _body(manifest: Manifest) -> dict[str, Any]:
    files = {name: entry.written() for name, entry in manifest.files.items()}
    return {"format": FORMAT, "files": files, "metadata": dict(manifest.metadata)}


def _text(body: Mapping[str, Any]) -> bytes:
    # The manifest vouches for itself too: a flipped bit in its metadata must not go unseen.
    core = json.dumps(body, sort_keys=True, allow_nan=False).encode()
    signed = {**body, "sha256": hashlib.sha256(core).hexdigest()}
    return json.dumps(signed, sort_keys=True, indent=1, allow_nan=False).encode() + b"\n"


def render(manifest: Manifest) -> bytes:
    """Write a manifest as text.

    Args:
        manifest: The manifest; its metadata must be JSON.

    Returns:
        The bytes of `manifest.json`.

    Raises:
        CheckpointError: The metadata is not JSON.
    """
    try:
        # There and back first: JSON turns number keys into text, which changes their order.
        return _text(json.loads(json.dumps(_body(manifest), allow_nan=False)))
    except (RecursionError, TypeError, ValueError) as error:
        raise CheckpointError(f"metadata: {error}; keep JSON in it: text, finite numbers, lists, dicts") from error


def read(folder: Path) -> Manifest:
    """Read a checkpoint's manifest and check it against itself.

    Args:
        folder: The checkpoint.

    Returns:
        The manifest.

    Raises:
        CheckpointError: It is missing, unreadable, damaged or of a newer format.
    """
    path = folder / NAME
    try:
        raw = path.read_bytes()
    except FileNotFoundError:
        raise CheckpointError(f"{path}: missing; {_whole(folder)}") from None
    except OSError as error:
        raise CheckpointError(f"{path}: unreadable: {error.strerror}; {_whole(folder)}") from error
    return _parse(path, raw)


def _whole(folder: Path) -> str:
    return "this is no checkpoint" if folder.exists() else "there is no such folder"


def _parse(path: Path, raw: bytes) -> Manifest:
    try:
        body = json.loads(raw)
        version = body["format"]
    except (LookupError, RecursionError, TypeError, ValueError) as error:
        raise CheckpointError(f"{path}: damaged: {error!r}; use an older checkpoint") from error
    if isinstance(version, int) and version > FORMAT:
        raise CheckpointError(
            f"{path}: has format {version}, this version reads up to {FORMAT}; update trustformers-pl"
        )
    try:
        del body["sha256"]
        if version != FORMAT or _text(body) != raw:
            raise ValueError("it is not what its own sha256 says")
        if any(Path(name).name != name for name in body["files"]):
            raise ValueError("it names files outside the folder")
        files = {str(name): entry_of(entry) for name, entry in body["files"].items()}
        return Manifest(files, dict(body["metadata"]))
    except (AttributeError, LookupError, RecursionError, TypeError, ValueError) as error:
        raise CheckpointError(f"{path}: damaged: {error}; use an older checkpoint") from error


def entry_of(told: Mapping[str, Any]) -> Entry:
    """Read what `Entry.written` gave.

    Raises:
        ValueError: Its blocks are not those of a file of its size.
        LookupError: Something is missing.
    """
    entry = Entry(
        int(told["size"]),
        str(told["sha256"]),
        int(told.get("block_size", 0)),
        tuple(str(digest) for digest in told.get("blocks", ())),
    )
    if entry.blocks and (entry.block_size < 1 or len(entry.blocks) != -(-entry.size // entry.block_size)):
        raise ValueError("its blocks are not those of the file's size")
    return entry
