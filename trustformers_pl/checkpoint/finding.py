"""Which checkpoints a path means: one folder, or those of a run. Needs neither torch nor Lightning."""

from __future__ import annotations

from pathlib import Path

from trustformers_pl.checkpoint.manifest import NAME
from trustformers_pl.checkpoint.series import newest, steps
from trustformers_pl.errors import CheckpointError

CHECKPOINTS = "checkpoints"  # in a run folder


def of_run(path: str | Path) -> dict[int, Path]:
    """List the checkpoints of a run, damaged ones too.

    Args:
        path: A run folder, or its folder of checkpoints.

    Returns:
        Step -> checkpoint, lowest step first.

    Raises:
        CheckpointError: There is no such folder, or there are no checkpoints in it.
    """
    found = steps(_series(_existing(path)))
    if not found:
        raise CheckpointError(f"{path}: no checkpoints in it; give a run folder, as `fit` names it when it ends")
    return found


def meant(path: str | Path) -> list[Path]:
    """List what a path means: the checkpoint that it is, or all those of the run that it is.

    Raises:
        CheckpointError: It is neither.
    """
    folder = _existing(path)
    return [folder] if _is_checkpoint(folder) else list(of_run(folder).values())


def one(path: str | Path) -> Path:
    """Find the one checkpoint that a path means: itself, or a run's newest whole one.

    Args:
        path: A checkpoint folder, a run folder, or a run's folder of checkpoints.

    Raises:
        CheckpointError: There is none.
    """
    folder = _existing(path)
    if _is_checkpoint(folder):
        return folder
    of_run(folder)
    found, complaints = newest(_series(folder))
    if found is None:
        raise CheckpointError(f"{path}: no whole checkpoint in it ({'; '.join(complaints)})")
    return found


def _existing(path: str | Path) -> Path:
    if "://" in str(path):
        raise CheckpointError(f"{path}: nothing is loaded from the network; download it first and give the file")
    folder = Path(path)
    if folder.is_file():
        raise CheckpointError(f"{path}: a file, not a checkpoint folder; it has no manifest to go by")
    if not folder.is_dir():
        raise CheckpointError(f"{path}: there is no such folder")
    return folder


def _is_checkpoint(folder: Path) -> bool:
    # One that lost its manifest is still meant by its name.
    return (folder / NAME).exists() or folder in steps(folder.parent).values()


def _series(folder: Path) -> Path:
    return folder / CHECKPOINTS if (folder / CHECKPOINTS).is_dir() else folder
