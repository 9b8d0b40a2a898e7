"""What of a trainer's state the terminal shows."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

from trustformers_pl.tracking.figures import loss, rate

if TYPE_CHECKING:
    from collections.abc import Mapping

    from lightning.pytorch import Trainer

TRAIN_LOSS, VAL_LOSS, BITS, SPEED = "train_loss", "val_loss", "val_bits_per_byte", "tokens_per_second"


def total_steps(trainer: Trainer) -> int | None:
    """Optimizer steps after which a fit ends.

    Args:
        trainer: A trainer whose training data is set up.

    Returns:
        The least of `max_steps` and what `max_epochs` allow; None when neither sets an end, or the data has no length.
    """
    limits = [trainer.max_steps] if trainer.max_steps > 0 else []
    batches = trainer.num_training_batches
    if trainer.max_epochs is not None and trainer.max_epochs >= 0 and math.isfinite(batches):
        limits.append(trainer.max_epochs * math.ceil(batches / trainer.accumulate_grad_batches))
    return min(limits, default=None)


def total_batches(batches: float | list[int | float]) -> int | None:
    """Batches of one evaluation.

    Args:
        batches: The number of batches, of each dataloader when there are several.

    Returns:
        Their sum; None when one is endless.
    """
    total = sum(batches) if isinstance(batches, list) else batches
    return int(total) if math.isfinite(total) else None


def shown_metrics(trainer: Trainer) -> list[tuple[str, str]]:
    """The latest metrics, the most telling first, as the narrowest terminal cuts the last ones off.

    Args:
        trainer: A trainer that is fitting.

    Returns:
        Pairs of a name and a value of fixed width: training loss, validation loss (in bits per byte where it is
        known), speed, then what the module logs with `prog_bar=True`.
    """
    metrics: Mapping[str, Any] = trainer.callback_metrics
    shown = [("loss", loss(float(metrics[TRAIN_LOSS])))] if TRAIN_LOSS in metrics else []
    if BITS in metrics:
        shown.append(("bits/byte", loss(float(metrics[BITS]))))
    elif VAL_LOSS in metrics:
        shown.append(("val", loss(float(metrics[VAL_LOSS]))))
    if SPEED in metrics:
        shown.append(("tok/s", rate(float(metrics[SPEED]))))
    own = {TRAIN_LOSS, VAL_LOSS, BITS, SPEED}
    return shown + [
        (name, loss(float(value))) for name, value in trainer.progress_bar_metrics.items() if name not in own
    ]


def validation_line(trainer: Trainer, seconds: float, width: int) -> str:
    """What a validation found, on one line.

    Args:
        trainer: A trainer at the end of a validation.
        seconds: How long it took.
        width: Characters for the step, so that the lines of a run stand in columns.

    Returns:
        For example `step  400  val_loss   1.6200  bits/byte   2.3372  (12.3 s)`.
    """
    metrics: Mapping[str, Any] = trainer.callback_metrics
    parts = [f"step {trainer.global_step:>{width}}"]
    if VAL_LOSS in metrics:
        parts.append(f"val_loss {loss(float(metrics[VAL_LOSS]))}")
    if BITS in metrics:
        parts.append(f"bits/byte {loss(float(metrics[BITS]))}")
    return "  ".join([*parts, f"({seconds:.1f} s)"])
