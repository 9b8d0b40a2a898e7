"""Which checkpoint a run goes on from."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

from trustformers_pl.checkpoint.series import newest, steps
from trustformers_pl.errors import CheckpointError

if TYPE_CHECKING:
    from pathlib import Path

logger = logging.getLogger(__name__)


def resume_path(folder: str | Path) -> str | None:
    """The newest whole checkpoint of a run, for `Trainer.fit(ckpt_path=)`; damaged ones are named in a warning.

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
    return None if path is None else str(path)
