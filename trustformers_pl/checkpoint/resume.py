"""Which checkpoint a run goes on from."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

from trustformers_pl.checkpoint.keeping import newest_finite, why_not_finite
from trustformers_pl.checkpoint.series import newest, steps
from trustformers_pl.errors import CheckpointError

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

logger = logging.getLogger(__name__)


def resume_path(folder: str | Path) -> str | None:
    """The newest whole checkpoint of a run, for `Trainer.fit(ckpt_path=)`; damaged ones are named in a warning.

    It is the newest one also where it is not finite: going on from there is what the run would have done. A warning
    then names the newest one that is finite.

    Args:
        folder: Where the run's checkpoints are; it need not exist.

    Returns:
        Its path, or None where there is no checkpoint at all.

    Raises:
        CheckpointError: There are checkpoints, and each of them is damaged.
    """
    path, complaints = newest(folder)
    if path is None and steps(folder):
        raise CheckpointError(
            f"{folder}: no whole checkpoint ({'; '.join(complaints)}); "
            "restore one from a copy, or start anew with --resume=never, which keeps this folder under another name"
        )
    for complaint in complaints:
        logger.warning("passed over a damaged checkpoint: %s", complaint)
    if path is None:
        return None
    if (why := why_not_finite(path)) is not None:
        logger.warning("%s%s", why, _instead(steps(folder)))
    return str(path)


def _instead(found: Mapping[int, Path]) -> str:
    finite = newest_finite(found)
    if finite is None:
        return "; no checkpoint of this run is finite"
    later = ", ".join(path.name for step, path in found.items() if step > finite)
    return f"; {found[finite].name} is: to go on from there, move {later} away"
