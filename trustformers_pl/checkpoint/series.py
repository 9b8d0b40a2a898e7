"""A run's checkpoints: folders named `step-00001200`. The newest whole one counts, not a link or a time."""

from __future__ import annotations

import re
from pathlib import Path

from trustformers_pl.checkpoint.atomic import fsync_folder
from trustformers_pl.checkpoint.unfinished import delete, finished, unfinished
from trustformers_pl.checkpoint.verification import verify
from trustformers_pl.errors import CheckpointError

_STEP = re.compile(r"step-(\d{8,})", re.ASCII)


def step_name(step: int) -> str:
    """Name the checkpoint of a step, so that names sort as steps do.

    Args:
        step: Optimizer steps done.

    Returns:
        `step-` and at least 8 digits.
    """
    return f"step-{step:08d}"


def steps(folder: str | Path) -> dict[int, Path]:
    """List a run's checkpoints by name, damaged ones too; other files and unfinished folders are passed over.

    Args:
        folder: Where they are; it need not exist.

    Returns:
        Step -> checkpoint, lowest step first.
    """
    found = {}
    for path in Path(folder).glob("step-*"):
        match = _STEP.fullmatch(path.name)
        if match and path.name == step_name(int(match[1])) and path.is_dir():
            found[int(match[1])] = path
    return dict(sorted(found.items()))


def newest(folder: str | Path) -> tuple[Path | None, list[str]]:
    """Find the checkpoint to resume from: the highest step that verifies.

    Args:
        folder: Where a run's checkpoints are; it need not exist.

    Returns:
        The checkpoint, or None if there is no whole one, and for each damaged one that was passed over a line saying
        which file is bad and how.
    """
    complaints = []
    for path in reversed(steps(folder).values()):
        try:
            verify(path)
        except CheckpointError as error:
            complaints.append(str(error))
        else:
            return path, complaints
    return None, complaints


def remove(path: str | Path) -> None:
    """Remove a checkpoint, a stock file or a link, so that a kill half-way leaves nothing that looks whole.

    It first loses its name, durably, then its files; `clean` finishes what a kill interrupted.

    Args:
        path: What to remove; it need not exist.

    Raises:
        CheckpointError: It cannot be removed.
    """
    target = Path(path).absolute()
    try:
        if target.is_symlink() or not target.is_dir():
            delete(target)
            return
        gone = unfinished(target, "gone")
        target.rename(gone)
        fsync_folder(target.parent)
        finished(gone)
    except OSError as error:
        raise CheckpointError(f"{target}: not removed: {error.strerror}") from error
