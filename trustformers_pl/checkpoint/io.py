"""`FolderCheckpointIO`: checkpoint folders for any Lightning Trainer that takes a CheckpointIO plugin."""

from __future__ import annotations

import platform
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from lightning.pytorch.plugins.io import CheckpointIO

from trustformers_pl.checkpoint.folder import load, remove, write_state
from trustformers_pl.errors import CheckpointError
from trustformers_pl.stock_file import read_stock

if TYPE_CHECKING:
    from os import PathLike


class FolderCheckpointIO(CheckpointIO):
    """Save and load checkpoints as folders of safetensors and JSON: atomic, synced, verified, never pickled.

    Use it in `Trainer(plugins=[FolderCheckpointIO()])`, with Lightning's own ModelCheckpoint or `Checkpoint`.
    """

    writes_folders = True  # `Run.save_checkpoint` asks

    def save_checkpoint(
        self, checkpoint: dict[str, Any], path: str | PathLike[str], storage_options: Any | None = None
    ) -> None:
        """Write a checkpoint that is there whole or not at all.

        Args:
            checkpoint: What the Trainer dumps; tensors of any shape.
            path: The folder, replaced in one step if it is there already.
            storage_options: Must be None: these belong to remote file systems.

        Raises:
            CheckpointError: The state holds something that cannot be stored (its path is named), the disk is full, or
                the folder cannot be written to.
        """
        if storage_options is not None:
            raise CheckpointError(f"{path}: storage_options are for remote file systems; leave them out")
        write_state(Path(path), checkpoint, _metadata(checkpoint))

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
        place = Path(path)
        return (
            read_stock(place, map_location=map_location)
            if place.is_file()
            else load(place, device=_device(map_location))
        )

    def remove_checkpoint(self, path: str | PathLike[str]) -> None:
        """Remove a checkpoint so that a kill half-way leaves nothing that looks whole.

        Args:
            path: The folder, file or link; it need not exist.

        Raises:
            CheckpointError: It cannot be removed.
        """
        remove(Path(path))


def _metadata(checkpoint: dict[str, Any]) -> dict[str, Any]:
    versions = {
        "lightning": checkpoint.get("pytorch-lightning_version"),
        "python": platform.python_version(),
        "torch": str(torch.__version__),
    }
    return {"epoch": checkpoint.get("epoch"), "global_step": checkpoint.get("global_step"), "versions": versions}


def _device(map_location: Any) -> torch.device | None:
    if callable(map_location):
        # torch.load's contract: given a storage and where it was, answer with a storage where it should be, or None.
        moved = map_location(torch.empty(0).untyped_storage(), "cpu")
        return None if moved is None else torch.device(moved.device)
    if isinstance(map_location, dict):
        map_location = map_location.get("cpu")
    return None if map_location is None else torch.device(map_location)
