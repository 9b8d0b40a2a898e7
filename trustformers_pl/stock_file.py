"""Stock Lightning checkpoint files, in and out: tensors and plain values only, nothing is executed on load."""

from __future__ import annotations

import os
from pathlib import Path, PurePath
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from trustformers_pl.durable import sync_folder
from trustformers_pl.errors import CheckpointError

if TYPE_CHECKING:
    from collections.abc import Mapping

SUFFIXES = (".ckpt", ".pt")
_LOOP = "epoch_loop.state_dict"  # in a fit loop's state: where our loop keeps more than Lightning's
_BATCH = "epoch_loop.batch_progress"
_OURS = ("parts", "own")


def stock_form(checkpoint: Mapping[str, Any]) -> dict[str, Any]:
    """Turn what our loop saved into what Lightning's own saves.

    Args:
        checkpoint: From `Trainer._checkpoint_connector.dump_checkpoint`, or as it was loaded from a folder.

    Returns:
        A dict that shares its tensors: without the state that only our loop reads, and with paths and numpy numbers as
        plain text and numbers, which `weights_only=True` reads.
    """
    loops = {name: _stock_loop(loop) for name, loop in checkpoint.get("loops", {}).items()}
    form: dict[str, Any] = _plain({**checkpoint, "loops": loops} if loops else dict(checkpoint))
    return form


def _stock_loop(loop: Mapping[str, Any]) -> dict[str, Any]:
    form = {**loop}
    if _LOOP not in loop:
        return form
    form[_LOOP] = {key: value for key, value in loop[_LOOP].items() if key not in _OURS}
    epoch, batch = loop["epoch_progress"]["current"], loop[_BATCH]
    if epoch["processed"] < epoch["started"] and batch["current"]["completed"] == batch["current"]["processed"]:
        # Lightning saves in `on_train_batch_end`, when the batch is not counted as complete, and takes a count that is
        # whole for the end of an epoch that has ended: it would train one batch too many.
        form[_BATCH] = {**batch, **{key: _one_less(batch[key], "completed") for key in ("current", "total")}}
        form[_LOOP] = _one_less(form[_LOOP], "_batches_that_stepped")
    return form


def _one_less(counts: Mapping[str, Any], name: str) -> dict[str, Any]:
    return {**counts, name: max(0, counts[name] - 1)}


def _plain(value: Any) -> Any:
    if isinstance(value, PurePath):
        return str(value)
    if isinstance(value, np.generic):
        return value.item()
    if type(value).__name__ == "AttributeDict" or type(value) is dict:
        return {_plain(key): _plain(item) for key, item in value.items()}
    if type(value) in (list, tuple):
        return type(value)(_plain(item) for item in value)
    return value


def write_stock(path: str | Path, checkpoint: Mapping[str, Any]) -> Path:
    """Write a stock file that is there whole, synced to the disk and readable with `weights_only=True`, or not at all.

    Args:
        path: The file; it is replaced if it is there.
        checkpoint: From `stock_form`.

    Returns:
        The file.

    Raises:
        CheckpointError: It cannot be written, or holds what needs code to be loaded.
    """
    final = Path(path)
    temporary = final.with_name(f".{final.name}.tmp-{os.getpid()}")
    try:
        final.parent.mkdir(parents=True, exist_ok=True)
        try:
            _write(temporary, dict(checkpoint))
            _refuse_code(temporary, final)
            temporary.replace(final)
        finally:
            temporary.unlink(missing_ok=True)
        sync_folder(final.parent)
    except OSError as error:
        raise CheckpointError(f"{final}: not written: {error.strerror or error}; choose another place") from error
    return final


def _write(path: Path, checkpoint: dict[str, Any]) -> None:
    with path.open("wb") as file:
        torch.save(checkpoint, file)
        file.flush()
        os.fsync(file.fileno())


def _refuse_code(temporary: Path, final: Path) -> None:
    try:
        torch.load(temporary, weights_only=True, mmap=True)
    except Exception as error:
        cause = " ".join(str(error).split())
        raise CheckpointError(
            f"{final}: not written: a stock Trainer would refuse to load it: {cause}; keep tensors and plain values in "
            "hyperparameters and states"
        ) from error


def read_stock(path: str | Path, *, map_location: Any = None, mapped: bool = False) -> dict[str, Any]:
    """Read a stock file as tensors and plain values only.

    Args:
        path: The file.
        map_location: As in `torch.load`.
        mapped: Map the tensors into memory instead of reading them.

    Returns:
        What is in it.

    Raises:
        CheckpointError: It is missing or damaged, needs code to be loaded, or holds no dict.
    """
    try:
        try:
            loaded = torch.load(path, map_location=map_location, weights_only=True, mmap=mapped)
        except RuntimeError as error:
            if not mapped or "mmap" not in str(error):  # files of before torch 1.6
                raise
            loaded = torch.load(path, map_location=map_location, weights_only=True)
    except Exception as error:
        # Damaged and hostile files make the reader fail in any way; the first line says which.
        cause = (str(error) or repr(error)).splitlines()[0]
        raise CheckpointError(
            f"{path}: not loaded: {cause}; nothing in it was executed; if you trust it, load it with torch.load and "
            "save its tensors and plain values anew"
        ) from error
    if not isinstance(loaded, dict):
        raise CheckpointError(f"{path}: it holds a {type(loaded).__name__}, not a checkpoint's dict")
    return loaded
