"""Which checkpoints are removed: never the last one that can be resumed from."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

from trustformers_pl.checkpoint import manifest as manifests
from trustformers_pl.checkpoint.series import remove, steps
from trustformers_pl.errors import CheckpointError

if TYPE_CHECKING:
    from collections.abc import Collection
    from pathlib import Path

logger = logging.getLogger(__name__)


def prune(folder: str | Path, step: int, *, keep_last: int, keep: Collection[int] = ()) -> list[Path]:
    """Remove older checkpoints, once a newer one has been written.

    Those of the newest `keep_last` steps stay that look whole: a readable manifest that agrees with its own sha256,
    and files of the sizes it says. (Every byte is hashed when it is written, and again when it is read.) As long as
    there are fewer, nothing is removed. Checkpoints of later steps are of a future that was passed over as damaged:
    they neither count nor are they removed.

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
    return [path for n, path in found.items() if n < whole[-1] and n not in keep and _removed(path)]


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
