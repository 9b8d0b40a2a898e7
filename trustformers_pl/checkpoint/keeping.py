"""Which checkpoints are removed: never the last one that can be resumed from."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

from trustformers_pl.checkpoint import manifest as manifests
from trustformers_pl.checkpoint.series import remove, steps
from trustformers_pl.errors import CheckpointError

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping
    from pathlib import Path

logger = logging.getLogger(__name__)


def prune(folder: str | Path, step: int, *, keep_last: int, keep: Collection[int] = ()) -> list[Path]:
    """Remove older checkpoints, once a newer one has been written.

    Those of the newest `keep_last` steps stay that look whole: a readable manifest that agrees with its own sha256,
    and files of the sizes it says. (Every byte is hashed when it is written, and again when it is read.) As long as
    there are fewer, nothing is removed. The newest one that is finite stays besides, if there is one. Checkpoints of
    later steps are of a future that was passed over as damaged: they neither count nor are they removed.

    Args:
        folder: Where the run's checkpoints are.
        step: Of the one that was written just now.
        keep_last: How many of the newest stay; at least 1.
        keep: Steps whose checkpoints stay besides.

    Returns:
        What was removed. What cannot be removed is named in a warning: the run does not depend on it.
    """
    found = {n: path for n, path in reversed(steps(folder).items()) if n <= step}
    whole: list[int] = []
    for number, path in found.items():
        if len(whole) < keep_last and looks_whole(path):
            whole.append(number)
    if len(whole) < keep_last or whole[0] != step:
        return []
    finite = newest_finite(found)
    if finite != step and finite is not None:
        logger.warning("%s; %s, the newest one that is finite, stays", why_not_finite(found[step]), found[finite].name)
    kept = {*keep, finite}
    return [path for n, path in found.items() if n < whole[-1] and n not in kept and _removed(path)]


def newest_finite(found: Mapping[int, Path]) -> int | None:
    """The highest step whose checkpoint looks whole and is not known to hold NaN or infinity; None without one.

    Args:
        found: Step -> checkpoint.
    """
    for step in sorted(found, reverse=True):
        if looks_whole(found[step]) and not manifests.read(found[step]).not_finite:
            return step
    return None


def why_not_finite(path: Path) -> str | None:
    """One clause that names a whole checkpoint's first tensor with NaN or infinity; None where none is known."""
    bad = manifests.read(path).not_finite
    return f"{path.name}: {bad} is not finite" if bad else None


def remove_abandoned(folder: str | Path, step: int) -> list[Path]:
    """Remove what is not finite of later steps than the one that a run has gone back to; returns what was removed.

    A resume would take the newest: it would go on with what the run has given up, and at another place in the data.
    """
    later = [path for n, path in steps(folder).items() if n > step and looks_whole(path)]
    return [path for path in later if why_not_finite(path) and _removed(path)]


def looks_whole(path: Path) -> bool:
    """Whether a checkpoint's manifest is sound and its files have the sizes that it says; reads no content."""
    try:
        entries = manifests.read(path).files
        return all((path / name).stat().st_size == entry.size for name, entry in entries.items())
    except (CheckpointError, OSError):
        return False


def _removed(path: Path) -> bool:
    try:
        remove(path)
    except CheckpointError as error:
        logger.warning("an old checkpoint stays: %s", error)
        return False
    return True
