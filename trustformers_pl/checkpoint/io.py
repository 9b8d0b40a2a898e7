"""`FolderCheckpointIO`: checkpoint folders for any Lightning Trainer that takes a CheckpointIO plugin."""

from __future__ import annotations

import contextlib
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from lightning.pytorch.plugins.io import CheckpointIO

from trustformers_pl.checkpoint import manifest as manifests
from trustformers_pl.checkpoint.background import BackgroundWriter, attempt
from trustformers_pl.checkpoint.board import Patience
from trustformers_pl.checkpoint.buffers import Buffers
from trustformers_pl.checkpoint.codec import encode
from trustformers_pl.checkpoint.finiteness import first_not_finite
from trustformers_pl.checkpoint.folder import load, remove
from trustformers_pl.checkpoint.manifest import finite_or_not
from trustformers_pl.checkpoint.provenance import versions
from trustformers_pl.checkpoint.shards import Leaf, Shards, sharded_leaves
from trustformers_pl.checkpoint.together import TogetherWriter, read_pieces
from trustformers_pl.checkpoint.writing import state_files, write_folder
from trustformers_pl.errors import CheckpointError
from trustformers_pl.gathering import rank_and_world_size
from trustformers_pl.stock_file import read_stock

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterator, Mapping
    from os import PathLike

    from torch import Tensor


@dataclass(frozen=True)
class Request:
    """How the next checkpoint is to be written.

    Attributes:
        metadata: JSON for its manifest, besides epoch, step and versions.
        after: Called by the writer once the checkpoint is safe.
        buffers: The module's buffers, which may hold infinity: the manifest tells whether all else is finite.
    """

    metadata: Mapping[str, Any] = field(default_factory=dict)
    after: Callable[[], object] = bool
    buffers: Collection[str] = ()


class FolderCheckpointIO(CheckpointIO):
    """Save and load checkpoints as folders of safetensors and JSON: atomic, synced, verified, never pickled.

    Use it in `Trainer(plugins=[FolderCheckpointIO()])`, with Lightning's own ModelCheckpoint or `Checkpoint`. What is
    saved is safe when `save_checkpoint` returns, except inside `in_background`.

    A state that holds DTensors is written by all ranks: `save_checkpoint` is then called on each of them. So does a
    strategy with an attribute `saves_on_every_rank = True`, where `writes_parts` says that this class can.

    Attributes:
        writer: Which writes in the background; `writer.wait()` returns when nothing is being written.
        patience: How long a rank waits for another one that does not write its part.
    """

    writes_folders = True  # `Run.save_checkpoint` asks
    writes_parts = True  # a strategy asks
    patience = Patience()

    def __init__(self) -> None:
        self.writer = BackgroundWriter()
        self._buffers = Buffers()
        self._request: Request | None = None

    def __reduce__(self) -> tuple[type, tuple[()]]:
        """Ranks that are spawned each have a writer of their own."""
        return type(self), ()

    @contextlib.contextmanager
    def in_background(self, request: Request) -> Iterator[None]:
        """Inside, `save_checkpoint` only copies the state into memory of its own, and leaves the rest to the writer.

        It then first waits for the checkpoint before, and raises what that one failed with.
        """
        self._request = request
        try:
            yield
        finally:
            self._request = None

    def save_checkpoint(
        self, checkpoint: dict[str, Any], path: str | PathLike[str], storage_options: Any | None = None
    ) -> None:
        """Write a checkpoint that is there whole or not at all.

        If the state holds DTensors of several ranks, each of them calls this and writes its pieces; all return, or
        raise, when rank 0 has published the folder. If it holds none, ranks other than 0 do nothing.

        Args:
            checkpoint: What the Trainer dumps; tensors of any shape. Of ranks other than 0 only the DTensors count:
                the same ones by the same paths.
            path: The folder, replaced in one step if it is there already.
            storage_options: Must be None: these belong to remote file systems.

        Raises:
            CheckpointError: The state holds something that cannot be stored (its path is named), the disk is full, or
                the folder cannot be written to.
        """
        if storage_options is not None:
            raise CheckpointError(f"{path}: storage_options are for remote file systems; leave them out")
        self.writer.wait()
        place, (rank, ranks) = Path(path).absolute(), rank_and_world_size()
        leaves = sharded_leaves(checkpoint)
        if ranks > 1 and leaves:
            self._save_together(place, checkpoint, leaves)
        elif rank == 0:
            self._save_alone(place, checkpoint, *encode(checkpoint, shards=Shards(leaves)))

    def _save_alone(self, path: Path, checkpoint: dict[str, Any], tree: Any, tensors: dict[str, Tensor]) -> None:
        if (request := self._request) is None:
            write_folder(path, state_files(tree, tensors), _metadata(checkpoint))
            return
        copies = self._buffers.copy(tensors)
        metadata = {**_metadata(checkpoint), **request.metadata}

        def write() -> None:
            bad = first_not_finite(copies, request.buffers)
            write_folder(path, state_files(tree, copies), {**metadata, **finite_or_not(bad)})
            request.after()

        self.writer.submit(write)

    def _save_together(self, path: Path, checkpoint: dict[str, Any], leaves: list[Leaf]) -> None:
        share = TogetherWriter(self.writer.hurry, self.patience, self._buffers.copy)
        write = share.prepare(path, checkpoint, leaves, _metadata(checkpoint), self._request)
        if self._request is None:
            attempt(write, write.give_up)
        else:
            self.writer.submit(write, write.give_up)

    def teardown(self) -> None:
        """End what is being written, and give its memory back.

        Raises:
            CheckpointError: It could not be written, and nobody was told before.
        """
        try:
            self.writer.close()
        finally:
            self._buffers.release()

    def load_checkpoint(
        self,
        path: str | PathLike[str],
        map_location: Any | None = None,
        weights_only: bool | None = None,  # noqa: ARG002
    ) -> dict[str, Any]:
        """Read a checkpoint folder, verified; or a stock `.ckpt` file, as tensors and plain values only.

        Args:
            path: The folder or file.
            map_location: Where tensors go: a device, its name, a dict of names, or a function, as in `torch.load`.
                Folders are read to the CPU, so that is the location which a dict or a function is asked about.
            weights_only: Taken as True whatever it says: no file is trusted to run code.

        Returns:
            What `save_checkpoint` was given.

        Raises:
            CheckpointError: It is missing, damaged, newer or foreign, or a file that needs code to be loaded.
        """
        self.writer.wait()
        place = Path(path)
        return (
            read_stock(place, map_location=map_location)
            if place.is_file()
            else load(place, device=_device(map_location))
        )

    def load_pieces(self, path: str | PathLike[str], *, together: bool = False) -> dict[str, Any]:
        """Read a checkpoint so that each rank takes only what it needs.

        Args:
            path: A checkpoint folder; or a stock `.ckpt` file, as tensors and plain values only.
            together: Collective: every rank calls this, each hashes some of the files, and all raise what one finds.

        Returns:
            What `save_checkpoint` was given, with `Pieces` in place of DTensors that lay on several ranks. All tensors
            are mapped into memory, and read when they are used: lay them out with `gathering.place_like`. Every byte of
            a folder is hashed before this returns.

        Raises:
            CheckpointError: As `load_checkpoint`.
        """
        self.writer.wait()
        place = Path(path)
        return read_stock(place, mapped=True) if place.is_file() else read_pieces(place, together=together)

    def progress_of(self, path: str | PathLike[str]) -> Mapping[str, Any]:
        """The `global_step` and `epoch` of a checkpoint; of a folder without reading its content.

        Raises:
            CheckpointError: It is missing, damaged, newer or foreign, or a file that needs code to be loaded.
        """
        self.writer.wait()
        place = Path(path)
        return read_stock(place) if place.is_file() else manifests.read(place).metadata

    def remove_checkpoint(self, path: str | PathLike[str]) -> None:
        """Remove a checkpoint so that a kill half-way leaves nothing that looks whole.

        Args:
            path: The folder, file or link; it need not exist.

        Raises:
            CheckpointError: It cannot be removed.
        """
        self.writer.wait()
        remove(Path(path))


def _metadata(checkpoint: dict[str, Any]) -> dict[str, Any]:
    return {"epoch": checkpoint.get("epoch"), "global_step": checkpoint.get("global_step"), "versions": versions()}


def _device(map_location: Any) -> torch.device | None:
    if callable(map_location):
        # torch.load's contract: given a storage and where it was, answer with a storage where it should be, or None.
        moved = map_location(torch.empty(0).untyped_storage(), "cpu")
        return None if moved is None else torch.device(moved.device)
    if isinstance(map_location, dict):
        map_location = map_location.get("cpu")
    return None if map_location is None else torch.device(map_location)
