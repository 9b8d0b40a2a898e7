"""Logging on the optimizer steps that Lightning logs, without `self.log`, which costs something on every step."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch

if TYPE_CHECKING:
    from collections.abc import Mapping

    from lightning.pytorch import Trainer


def is_due(trainer: Trainer) -> bool:
    """Whether Lightning itself logs the optimizer step that is running.

    Args:
        trainer: A trainer that is fitting.

    Returns:
        Lightning's own decision, taken at any point of the step before it ends.
    """
    # What `_LoggerConnector.should_update_logs` comes to while training, without finding out that it does train.
    every = trainer.log_every_n_steps  # type: ignore[attr-defined]
    stepped: int = trainer.fit_loop.epoch_loop._batches_that_stepped
    due = every != 0 and ((stepped + 1) % every == 0 or trainer.should_stop)
    return due or bool(getattr(trainer, "fast_dev_run", False))


def log_scalars(trainer: Trainer, metrics: Mapping[str, float]) -> None:
    """Give numbers of this optimizer step to every logger, and to `trainer.callback_metrics`.

    Not `pl_module.log`: what it was given on one step, Lightning goes through on every step, rounds to float32, and
    logs again under a later step's number when a callback sets `should_stop`.

    Args:
        trainer: A trainer that is fitting, before its step counter has moved on (`on_train_batch_end`).
        metrics: Name -> value.
    """
    trainer._logger_connector.log_metrics(dict[str, Any](metrics))
    trainer.callback_metrics.update({k: torch.tensor(v, dtype=torch.float64) for k, v in metrics.items()})
