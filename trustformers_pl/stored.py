"""Checkpoints that a person names: saving a run to a path, and going on from one."""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lightning.pytorch.plugins.io import CheckpointIO

from trustformers_pl.errors import CheckpointError
from trustformers_pl.gathering import first_of_ranks, rank_and_world_size, whole
from trustformers_pl.stock_file import SUFFIXES, read_stock, stock_form, write_stock

if TYPE_CHECKING:
    from collections.abc import Iterator

    from lightning import Trainer

_MANIFEST = "manifest.json"


def save(trainer: Trainer, path: str | Path, boundary: str | None = None) -> Path:
    """Save a Trainer's state under a name that a person chose; every rank calls it.

    Rank 0 writes, of a folder the other ranks what only they hold. A stock file is gathered whole on rank 0.

    Args:
        trainer: Of a run that was started.
        path: A name that ends in `.ckpt` or `.pt` gives a stock file; any other a folder.
        boundary: The run's newest checkpoint. After a fit has ended, the loop has counted the end of its epoch and
            drawn random numbers: what the loop knew at its last step is in this one, if it is of that step.

    Returns:
        The path.

    Raises:
        CheckpointError: Nothing was trained yet, the path is something else already, the Trainer has no folder format,
            or it cannot be written; on all ranks, with the message of the first that failed.
    """
    place = Path(path)
    if getattr(trainer.strategy, "_lightning_module", None) is None:
        raise CheckpointError(f"{place}: not saved: the run has no state yet; train first")
    stock = place.suffix in SUFFIXES
    folders = getattr(trainer.strategy.checkpoint_io, "writes_folders", False)
    with _told_to_all():  # before the first collective: ranks may see different disks
        if trainer.is_global_zero:
            _refuse_place(place, stock=stock, folders=folders)
    checkpoint = trainer._checkpoint_connector.dump_checkpoint()  # collective
    if boundary is not None and not trainer.training:
        last = _read(trainer.strategy.checkpoint_io, boundary)
        if last["global_step"] == checkpoint["global_step"]:
            checkpoint |= {"epoch": last["epoch"], "loops": last["loops"]}
    with _told_to_all():
        if not stock:
            trainer.strategy.save_checkpoint(checkpoint, place)
        else:
            form = whole(stock_form(checkpoint), "")  # collective where there are DTensors
            if trainer.is_global_zero:
                write_stock(place, form)
    return place


def _read(io: Any, path: str | Path) -> dict[str, Any]:
    """A checkpoint of which little is needed: where the format allows, no tensor is read before it is used."""
    read: dict[str, Any] = (getattr(io, "load_pieces", None) or io.load_checkpoint)(path)
    return read


@contextlib.contextmanager
def _told_to_all() -> Iterator[None]:
    """Raise on every rank what any of them fails with inside, when all have come to its end. Collective."""
    said: str | None = f"rank {rank_and_world_size()[0]} failed"
    try:
        yield
        said = None
    except CheckpointError as error:
        said = str(error)
        raise
    finally:
        heard = first_of_ranks(said)
    if heard is not None:
        raise CheckpointError(heard)


def _refuse_place(path: Path, *, stock: bool, folders: bool) -> None:
    if stock and path.is_dir():
        raise CheckpointError(f"{path}: not saved: it is a folder; choose another name")
    if not stock and not folders:
        raise CheckpointError(
            f"{path}: not saved: a folder needs the section `checkpoint`; add it, or let the name end in .ckpt"
        )
    other_content = path.is_dir() and any(path.iterdir()) and not (path / _MANIFEST).exists()
    if not stock and (path.is_file() or other_content):
        raise CheckpointError(f"{path}: not saved: it is there and no checkpoint; choose another name")


def readable(trainer: Trainer, path: str | Path) -> dict[str, Any]:
    """Read what a run shall go on from, and let its Trainer read it in the same way: nothing in it is executed.

    Args:
        trainer: Of the run; from now on it reads stock files with `weights_only=True`, whatever wrote them.
        path: A checkpoint folder or a stock file.

    Returns:
        The checkpoint.

    Raises:
        CheckpointError: It is an address in the network, missing, damaged, needs code to be loaded, or holds weights
            only.
    """
    if "://" in str(path):
        raise CheckpointError(f"{path}: nothing is loaded from the network; download it first and give the file")
    place = Path(path)
    if not place.exists():
        raise CheckpointError(f"{place}: there is no such file or folder")
    if not getattr(trainer.strategy.checkpoint_io, "writes_folders", False):
        if place.is_dir():
            raise CheckpointError(f"{place}: a folder needs the section `checkpoint`; add it, or give a stock file")
        if not isinstance(trainer.strategy.checkpoint_io, ReadsSafely):
            trainer.strategy.checkpoint_io = ReadsSafely(trainer.strategy.checkpoint_io)
    io = trainer.strategy.checkpoint_io
    # Of several ranks each reads it again when it goes on from it, and then its own part.
    checkpoint = io.load_checkpoint(place) if trainer.world_size == 1 else _read(io, place)
    if missing := {"state_dict", "loops", "optimizer_states", "pytorch-lightning_version"} - checkpoint.keys():
        raise CheckpointError(
            f"{place}: no training state in it (no {min(missing)}); a new run takes its weights by the section "
            "`pretrained`"
        )
    return checkpoint


class ReadsSafely(CheckpointIO):
    """Another CheckpointIO, but for reading: files are tensors and plain values, and never run code."""

    def __init__(self, other: CheckpointIO) -> None:
        """Take its place.

        Args:
            other: What writes and removes.
        """
        super().__init__()
        self.other = other

    def save_checkpoint(self, checkpoint: dict[str, Any], path: Any, storage_options: Any | None = None) -> None:
        """As the other one does."""
        self.other.save_checkpoint(checkpoint, path, storage_options)

    def load_checkpoint(
        self,
        path: Any,
        map_location: Any | None = None,
        weights_only: bool | None = None,  # noqa: ARG002
    ) -> dict[str, Any]:
        """Read a stock file.

        Raises:
            CheckpointError: As `read_stock`.
        """
        return read_stock(path, map_location=map_location)

    def remove_checkpoint(self, path: Any) -> None:
        """As the other one does."""
        self.other.remove_checkpoint(path)

    def teardown(self) -> None:
        """As the other one does."""
        self.other.teardown()
