"""Lightning without its start-up chatter: tips, lines about absent hardware, and warnings that do not apply to us."""

from __future__ import annotations

import logging
import warnings
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

CHATTY = ("lightning", "lightning.pytorch", "lightning.fabric")
# Each is answered by the engine itself, or says what the person asked for.
NOISE = (
    r"`isinstance\(treespec, LeafSpec\)` is deprecated",
    r"You defined a `validation_step` but have no `val_dataloader`",
    r"You passed in a `val_dataloader` but have no `validation_step`",
    r"The '.*_dataloader' does not have many workers",
    r"You're resuming from a checkpoint that ended before the epoch ended",
    r"The number of training batches .* is smaller than the logging interval",
    r"Checkpoint directory .* exists and is not empty",
    r"predict returned None if it was on purpose",
    r"You have overridden `.*` in `LightningModule`",
)


@contextmanager
def quiet_lightning() -> Iterator[None]:
    """Inside, Lightning's loggers say warnings and worse only."""
    loggers = [logging.getLogger(name) for name in CHATTY]
    levels = [logger.level for logger in loggers]
    with warnings.catch_warnings():
        for pattern in NOISE:
            warnings.filterwarnings("ignore", message=pattern)
        try:
            for logger in loggers:
                logger.setLevel(logging.WARNING)
            yield
        finally:
            for logger, level in zip(loggers, levels, strict=True):
                logger.setLevel(level)
