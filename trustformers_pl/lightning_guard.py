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
from lightning.pytorch.core.optimizer import LightningOptimizer
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
        LightningOptimizer,
        call,
    )
}

# First 16 hexadecimal digits of the SHA-256 of the source of each method that the lean loop replaces, or knows to do
# nothing else. To refresh after a change in Lightning: read the change, follow it in lean_step.py,
# lean_optimization.py and step_hooks.py, run tests/core/test_loop.py with the new version, then put in what
# `python -m trustformers_pl.lightning_guard` prints.
SOURCES: dict[str, str] = {
    "_TrainingEpochLoop.on_run_start": "5ac8dce34285d1e5",
    "_TrainingEpochLoop._broadcast_sigterm_tensor": "d28475834da4fc73",
    "_TrainingEpochLoop.advance": "17a20f0893694ed0",
    "_TrainingEpochLoop.on_advance_end": "6e8f70b3702882f0",
    "_TrainingEpochLoop.global_step": "f70eedc645f01bb3",
    "_TrainingEpochLoop._should_accumulate": "3ad7d8bce6efa1e6",
    "_TrainingEpochLoop.update_lr_schedulers": "df0f717e6f807347",
    "_TrainingEpochLoop._update_learning_rates": "8c3cbd1ef9ab308d",
    "_TrainingEpochLoop._save_loggers_on_train_batch_end": "ef9097330ec6fd40",
    "_TrainingEpochLoop._build_kwargs": "0aade123b317cea8",
    "_AutomaticOptimization.run": "b485c6c242f4fa6d",
    "_AutomaticOptimization._make_closure": "bc64ef6de3214d6d",
    "_AutomaticOptimization._make_step_fn": "0a7b9370fda456f4",
    "_AutomaticOptimization._make_zero_grad_fn": "e7a5f73b96079f87",
    "_AutomaticOptimization._make_backward_fn": "9b594127c34a2083",
    "_AutomaticOptimization._optimizer_step": "948c6b1fc61201dd",
    "_AutomaticOptimization._on_before_zero_grad": "c3833a1c49e5eddd",
    "_AutomaticOptimization._optimizer_zero_grad": "9cbf5adc1aeecbdc",
    "_AutomaticOptimization._training_step": "759edd4ca181d10f",
    "Closure.closure": "9a256e79836220c2",
    "Closure.__call__": "47318d5cce39e6e2",
    "ClosureResult.from_training_step_output": "1c91f7f949878406",
    "_LoggerConnector.on_batch_start": "755f36c6c3723b99",
    "_LoggerConnector.on_batch_end": "eef4d23b26172f5c",
    "_LoggerConnector.update_train_step_metrics": "8458e8af7a7190ac",
    "_LoggerConnector.log_metrics": "1a60be0a5934324a",
    "_LoggerConnector.metrics": "ec3fe6060db79df0",
    "LightningModule._on_before_batch_transfer": "fcc8ef9b939306f0",
    "LightningModule._apply_batch_transfer_handler": "3d4865590a573257",
    "LightningModule._call_batch_hook": "2a2645465f1b36cf",
    "DataHooks.on_before_batch_transfer": "db59cdfbee708043",
    "DataHooks.transfer_batch_to_device": "da84cbcc147c85be",
    "DataHooks.on_after_batch_transfer": "998e4c287a545a3f",
    "Precision.pre_backward": "faa725f9665d9156",
    "Precision.post_backward": "51b92c3e2e1234cc",
    "Precision._clip_gradients": "50a3033cf9d1990f",
    "LightningModule.optimizer_step": "f129e1f22590e218",
    "LightningModule.optimizer_zero_grad": "55442c8716c7f7ec",
    "LightningModule.lr_scheduler_step": "486140b5478e017d",
    "LightningModule.backward": "840c69890d6b4a32",
    "LightningOptimizer.step": "dfa3518159a5d17c",
    "Strategy.optimizer_step": "c8a82c7d9b1b4c33",
    "Strategy.backward": "b4714873cc5c8c6c",
    "Strategy.training_step": "ad8e97a1e80b50eb",
    "Strategy.post_training_step": "860feb193a93e0be",
    "Strategy.batch_to_device": "f13499412829fd2a",
    "Strategy.on_train_batch_start": "300dd5bfe210303a",
    "call._call_callback_hooks": "c171fbda7ef977ab",
    "call._call_lightning_module_hook": "4fb7d232eff76bb5",
    "call._call_strategy_hook": "de9c1b5465ab3bce",
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
        source = textwrap.dedent(inspect.getsource(function))
    except (TypeError, OSError):
        return "missing"
    # The source of a wrapper made with functools.wraps is that of what it wraps; its code's name is its own.
    return hashlib.sha256(f"{function.__code__.co_name}\n{source}".encode()).hexdigest()[:16]


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
