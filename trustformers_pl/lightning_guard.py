"""Whether the installed Lightning is one whose methods the lean loop was written after."""

from __future__ import annotations

import hashlib
import inspect
import logging
import textwrap
from functools import cache
from typing import TYPE_CHECKING, Any

import lightning
from lightning.pytorch import LightningModule
from lightning.pytorch.core.hooks import DataHooks
from lightning.pytorch.loops.optimization.automatic import Closure, ClosureResult, _AutomaticOptimization
from lightning.pytorch.loops.training_epoch_loop import _TrainingEpochLoop
from lightning.pytorch.plugins.precision import Precision
from lightning.pytorch.strategies import Strategy
from lightning.pytorch.trainer import call
from lightning.pytorch.trainer.connectors.logger_connector.logger_connector import _LoggerConnector
from packaging.version import Version

if TYPE_CHECKING:
    from collections.abc import Mapping

logger = logging.getLogger(__name__)

TESTED = (Version("2.6.4"), Version("2.7"))  # from the first, up to but not including the second
OWNERS: dict[str, Any] = {
    owner.__name__.rpartition(".")[2]: owner
    for owner in (
        _TrainingEpochLoop,
        _AutomaticOptimization,
        Closure,
        ClosureResult,
        _LoggerConnector,
        LightningModule,
        DataHooks,
        Precision,
        Strategy,
        call,
    )
}

# First 16 hexadecimal digits of the SHA-256 of the source of each method that the lean loop replaces, or knows to do
# nothing else. To refresh after a change in Lightning: read the change, follow it in lean_step.py,
# lean_optimization.py and step_hooks.py, run tests/core/test_loop.py with the new version, then put in what
# `python -m trustformers_pl.lightning_guard` prints.
SOURCES: dict[str, str] = {
    "_TrainingEpochLoop.on_run_start": "e5f54e7ec3a35a2d",
    "_TrainingEpochLoop._broadcast_sigterm_tensor": "45e2e47019dc308d",
    "_TrainingEpochLoop.advance": "a84361ab2e5eebaa",
    "_TrainingEpochLoop.on_advance_end": "81bd222c5a40ad2a",
    "_TrainingEpochLoop._should_accumulate": "536b305d909f659d",
    "_TrainingEpochLoop.update_lr_schedulers": "b6bcf477b1886c77",
    "_TrainingEpochLoop._update_learning_rates": "39d655cf218adad0",
    "_TrainingEpochLoop._save_loggers_on_train_batch_end": "e75444270164913b",
    "_TrainingEpochLoop._build_kwargs": "e2c744365187ddcf",
    "_AutomaticOptimization.run": "acc7a122c133031f",
    "_AutomaticOptimization._make_closure": "615ee2b637247375",
    "_AutomaticOptimization._make_step_fn": "b6f8b7ef26e65a57",
    "_AutomaticOptimization._make_zero_grad_fn": "225e26060ee79a15",
    "_AutomaticOptimization._make_backward_fn": "15004fa6d1578e16",
    "_AutomaticOptimization._optimizer_step": "22d56e420c87bb4b",
    "_AutomaticOptimization._on_before_zero_grad": "02f11db393cfbaa8",
    "_AutomaticOptimization._optimizer_zero_grad": "82f2de9a92b81572",
    "_AutomaticOptimization._training_step": "b1d7ca68ef027f26",
    "Closure.closure": "50c05f57d78f0b62",
    "Closure.__call__": "4e8db96649636dda",
    "ClosureResult.from_training_step_output": "e9e7ce7ff88eb6a2",
    "_LoggerConnector.on_batch_start": "11febf689b3fb700",
    "_LoggerConnector.on_batch_end": "84583605aca3aa2e",
    "_LoggerConnector.update_train_step_metrics": "3b16c53279aaa0ee",
    "_LoggerConnector.log_metrics": "812e7306fd71840d",
    "_LoggerConnector.metrics": "e69087c89e93d3b8",
    "LightningModule._on_before_batch_transfer": "84706009ef104e48",
    "LightningModule._apply_batch_transfer_handler": "c0cb3f8de50849ca",
    "LightningModule._call_batch_hook": "68c74408b8cce473",
    "DataHooks.on_before_batch_transfer": "b2fa7e6df01511d2",
    "DataHooks.transfer_batch_to_device": "f6ba09e82f338f02",
    "DataHooks.on_after_batch_transfer": "ef68dfd4a682aa48",
    "Precision.pre_backward": "48c86e7af639b126",
    "Precision.post_backward": "729121a3b2652437",
    "Precision._clip_gradients": "ef7b85c1a469d1f7",
    "Strategy.batch_to_device": "eec4e7ef2fb17bd0",
    "Strategy.on_train_batch_start": "8a4f0ac592bbdbba",
    "call._call_callback_hooks": "c413fb9a6a9ce1a3",
    "call._call_lightning_module_hook": "558a87d04c4680e1",
    "call._call_strategy_hook": "ff429e3ac60d2a80",
}


def sources(names: Mapping[str, str] = SOURCES) -> dict[str, str]:
    """The digest of each method's source in the installed Lightning; `missing` where it has no such method."""
    return {name: digest(_found(name)) for name in names}


def _found(name: str) -> Any:
    owner, _, method = name.partition(".")
    return inspect.getattr_static(OWNERS[owner], method, None)


@cache
def digest(function: Any) -> str:
    """First 16 hexadecimal digits of the SHA-256 of a function's source, without where it stands in its file."""
    function = function.fget if isinstance(function, property) else getattr(function, "__func__", function)
    try:
        source = inspect.getsource(function)
    except (TypeError, OSError):
        return "missing"
    return hashlib.sha256(textwrap.dedent(source).encode()).hexdigest()[:16]


def changed(expected: Mapping[str, str] = SOURCES) -> list[str]:
    """The methods whose source is not the one that the lean loop was written after."""
    found = sources(expected)
    return [name for name in expected if found[name] != expected[name]]


def why_untested() -> str | None:
    """Why the installed Lightning is not trusted, in a sentence; None where it is. Said once in the log."""
    version = Version(lightning.__version__)
    if not TESTED[0] <= version < TESTED[1]:
        return _said(f"Lightning {version} is not one of {TESTED[0]} to {TESTED[1]}")
    different = changed()
    return _said(f"Lightning's {', '.join(different)} changed") if different else None


@cache
def _said(reason: str) -> str:
    logger.warning("%s: training runs in Lightning's own loop, a few per cent slower, with the same results", reason)
    return reason


if __name__ == "__main__":
    for name, value in sources().items():
        print(f'    "{name}": "{value}",')
