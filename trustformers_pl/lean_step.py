"""One batch of an ordinary run: what Lightning's loop does for it, and nothing that this run has no use for."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from lightning import LightningDataModule, LightningModule
from lightning.fabric.utilities import move_data_to_device
from lightning.pytorch.loops.fetchers import _profile_nothing
from lightning.pytorch.strategies import Strategy
from lightning.pytorch.trainer import call
from torch import Tensor

from trustformers_pl.lean_optimization import LeanOptimization
from trustformers_pl.step_hooks import StepHooks, overrides

if TYPE_CHECKING:
    from collections.abc import Callable

    from lightning import Trainer
    from lightning.pytorch.loops.fetchers import _DataFetcher
    from lightning.pytorch.loops.training_epoch_loop import _TrainingEpochLoop

TRANSFER_HOOKS = ("on_before_batch_transfer", "transfer_batch_to_device", "on_after_batch_transfer")


class LeanStep:
    """Replaces `_TrainingEpochLoop.advance`: the same hooks, counters and logged values in the same order.

    Args:
        loop: Of the run, which must be ordinary (see `ordinary.py`).
        fetcher: Of its training batches.
    """

    def __init__(self, loop: _TrainingEpochLoop, fetcher: _DataFetcher) -> None:
        trainer = loop.trainer
        self._loop = loop
        self._trainer = trainer
        self._module = trainer.lightning_module
        self._precision: Any = trainer.precision_plugin
        self._connector = trainer._logger_connector
        self._strategy_starts = overrides(trainer.strategy, "on_train_batch_start", Strategy)
        self._transfers_itself = transfers_itself(trainer)
        self._synchronises = trainer.world_size > 1
        configs = trainer.lr_scheduler_configs
        self._scheduler = configs[0].scheduler if configs else None
        fetcher._start_profiler = fetcher._stop_profiler = _profile_nothing
        self._validation: tuple[Any, bool] | None = None
        self.hooks = self._precision.hooks = StepHooks(trainer)
        self._optimization = LeanOptimization(loop, self.hooks)
        self._schedules_itself = overrides(self._module, "lr_scheduler_step", LightningModule)

    def validates(self, decide: Callable[[], bool]) -> bool:
        """Whether this epoch has validations: Lightning asks after every batch, and looks at classes to answer."""
        trainer = self._trainer
        asked = (trainer.limit_val_batches, trainer.check_val_every_n_epoch)
        if self._validation is None or self._validation[0] != asked:
            self._validation = asked, decide()
        return self._validation[1]

    def advance(self, fetcher: _DataFetcher) -> None:
        """One batch.

        Raises:
            StopIteration: The data is exhausted, or the module's `on_train_batch_start` returned -1.
        """
        loop = self._loop
        if loop.val_loop.restarting:
            loop.val_loop.restarting = False
        if self._synchronises:
            loop._broadcast_sigterm_tensor()
        batch_idx = loop.batch_progress.current.ready
        batch = self._fetch(fetcher)
        outputs = self._train(batch, batch_idx)
        self.hooks.call("on_train_batch_end", outputs, batch, batch_idx)
        self._end_batch()

    def _fetch(self, fetcher: _DataFetcher) -> Any:
        batch, _, _ = next(fetcher)
        progress, connector, results = self._loop.batch_progress, self._connector, self._loop._results
        progress.is_last_batch = fetcher.done
        batch = self._transferred(self._precision.convert_input(batch))
        progress.increment_ready()
        connector._first_loop_iter = connector._first_loop_iter is None
        results.batch, results.batch_size, results.dataloader_idx = batch, None, None
        return batch

    def _transferred(self, batch: Any) -> Any:
        if not self._transfers_itself:
            device = self._trainer.strategy.root_device
            there = type(batch) is dict and device.type == "cpu" and all(map(is_on_cpu, batch.values()))
            return dict(batch) if there else move_data_to_device(batch, device)
        batch = self._module._on_before_batch_transfer(batch, dataloader_idx=0)
        return call._call_strategy_hook(self._trainer, "batch_to_device", batch, dataloader_idx=0)

    def _train(self, batch: Any, batch_idx: int) -> dict[str, Any] | None:
        progress, outputs, leave = self._loop.batch_progress, None, False
        if batch is None:
            self._loop._warning_cache.warn(
                "train_dataloader yielded None. If this was on purpose, ignore this warning..."
            )
        else:
            leave = self.hooks.call("on_train_batch_start", batch, batch_idx) == -1
            if self._strategy_starts:
                call._call_strategy_hook(self._trainer, "on_train_batch_start", batch, batch_idx)
            if leave:
                progress.increment_by(0, is_last_batch=True)
            else:
                progress.increment_started()
                outputs = self._optimization.run(batch, batch_idx)
        progress.increment_processed()
        self._schedule()
        if leave:
            raise StopIteration
        return outputs

    def _schedule(self) -> None:
        if self._scheduler is None or self._loop._should_accumulate() or self._precision.skipped:
            return
        progress = self._loop.scheduler_progress
        progress.increment_ready()
        if self._schedules_itself:
            self.hooks.under_name("lr_scheduler_step", self._module.lr_scheduler_step, self._scheduler, None)
        else:
            self._scheduler.step()
        progress.increment_completed()

    def _end_batch(self) -> None:
        results = self._loop._results
        if results:  # someone has used `self.log` in this epoch or an earlier one
            self._connector.on_batch_end()
        else:
            results.batch = results.batch_size = None
        self._loop.batch_progress.increment_completed()
        if results:
            self._connector.update_train_step_metrics()


def is_on_cpu(value: Any) -> bool:
    """Whether moving a value to the CPU does nothing."""
    return type(value) is Tensor and value.device.type == "cpu"


def transfers_itself(trainer: Trainer) -> bool:
    """Whether someone has a say in how batches reach the device."""
    owners: list[tuple[Any, type]] = [(trainer.lightning_module, LightningModule)]
    if trainer.datamodule is not None:  # type: ignore[attr-defined]
        owners.append((trainer.datamodule, LightningDataModule))  # type: ignore[attr-defined]
    by_hook = any(overrides(owner, name, base) for owner, base in owners for name in TRANSFER_HOOKS)
    return by_hook or overrides(trainer.strategy, "batch_to_device", Strategy)
