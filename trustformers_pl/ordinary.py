"""Which runs the lean loop can train: the ordinary ones."""

from __future__ import annotations

import logging
import os
from typing import TYPE_CHECKING

import torch
from lightning.pytorch.loops.fetchers import _DataLoaderIterDataFetcher
from lightning.pytorch.loops.optimization.automatic import _AutomaticOptimization
from lightning.pytorch.profilers import PassThroughProfiler
from lightning.pytorch.trainer import call
from lightning.pytorch.trainer.connectors.logger_connector.logger_connector import _LoggerConnector

from trustformers_pl.lightning_guard import why_untested
from trustformers_pl.precision_order import OrderedPrecision

if TYPE_CHECKING:
    from lightning import Trainer
    from lightning.pytorch.loops.fetchers import _DataFetcher
    from lightning.pytorch.loops.training_epoch_loop import _TrainingEpochLoop

SWITCH = "TFPL_LOOP"


def why_not_ordinary(loop: _TrainingEpochLoop, fetcher: _DataFetcher) -> str | None:
    """The first reason why this run needs Lightning's own loop; None where it does not."""
    trainer = loop.trainer
    if os.environ.get(SWITCH) == "stock":
        return f"{SWITCH}=stock asks for it"
    if (reason := why_untested()) is not None:
        return reason
    checks = (_module(trainer), _trainer(trainer), _data(fetcher), _schedules(trainer), _loop(loop))
    return next((reason for reason in checks if reason is not None), None)


def _module(trainer: Trainer) -> str | None:
    if not trainer.lightning_module.automatic_optimization:
        return "the module optimizes by itself"
    if len(trainer.optimizers) != 1:
        return f"there are {len(trainer.optimizers)} optimizers"
    if isinstance(trainer.optimizers[0], torch.optim.LBFGS):
        return "LBFGS calls its closure more than once"
    return None


def _trainer(trainer: Trainer) -> str | None:
    if type(trainer.profiler) is not PassThroughProfiler:  # type: ignore[attr-defined]
        return "a profiler listens"
    if call.log.isEnabledFor(logging.DEBUG):
        return "the calls of hooks are logged"
    if not isinstance(trainer.precision_plugin, OrderedPrecision):
        return f"the precision plugin is {type(trainer.precision_plugin).__name__}"
    if trainer.strategy.handles_gradient_accumulation:
        return f"{type(trainer.strategy).__name__} accumulates gradients itself"
    return None


def _data(fetcher: _DataFetcher) -> str | None:
    if isinstance(fetcher, _DataLoaderIterDataFetcher):
        return "the training step takes an iterator"
    return "the training data has no length" if fetcher.length is None else None


def _schedules(trainer: Trainer) -> str | None:
    configs = trainer.lr_scheduler_configs
    if len(configs) > 1:
        return f"there are {len(configs)} schedules"
    for config in configs:
        if config.reduce_on_plateau or config.interval != "step" or config.frequency != 1:
            return "the schedule does not step after each optimizer step"
    return None


def _loop(loop: _TrainingEpochLoop) -> str | None:
    parts: list[tuple[object, type]] = [(loop.automatic_optimization, _AutomaticOptimization)]
    parts.append((loop.trainer._logger_connector, _LoggerConnector))
    strange = [type(part).__name__ for part, expected in parts if type(part) is not expected]
    return f"{strange[0]} is not Lightning's own" if strange else None
