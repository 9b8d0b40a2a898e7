"""The optimization of one batch, as Lightning's `_AutomaticOptimization` does it, without building closures for it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import torch
from lightning.pytorch.loops.optimization.automatic import Closure, ClosureResult
from lightning.pytorch.loops.utilities import _block_parallel_sync_behavior
from lightning.pytorch.strategies import ParallelStrategy
from lightning.pytorch.utilities.signature_utils import is_param_in_hook_signature
from torch import Tensor
from typing_extensions import override

from trustformers_pl.direct_calls import direct_calls

if TYPE_CHECKING:
    from lightning.pytorch.loops.training_epoch_loop import _TrainingEpochLoop

    from trustformers_pl.step_hooks import StepHooks


class LeanOptimization(Closure):
    """Training step, `zero_grad`, backward pass and optimizer step; it is itself the closure that optimizers get.

    Args:
        loop: Whose counters it advances.
        hooks: The hooks of the step.
    """

    def __init__(self, loop: _TrainingEpochLoop, hooks: StepHooks) -> None:
        super().__init__(self._training_step)
        trainer = loop.trainer
        self.hooks = hooks
        self._loop = loop
        self._trainer = trainer
        self._module = trainer.lightning_module
        self._strategy = trainer.strategy
        self._optimizer = trainer.optimizers[0]
        self._progress = loop.automatic_optimization.optim_progress.optimizer
        self._parallel = isinstance(trainer.strategy, ParallelStrategy)
        training_step = self._module.training_step
        self._takes_index = is_param_in_hook_signature(training_step, "batch_idx", min_args=2)
        self._precision = trainer.strategy.precision_plugin
        self._direct = direct_calls(trainer)
        self._arguments: tuple[Any, ...] = ()
        self._batch_idx = 0

    def run(self, batch: Any, batch_idx: int) -> dict[str, Any]:
        """Train on one batch.

        Returns:
            `loss` and the other outputs of the training step, detached loss; empty where it returned None.

        Raises:
            MisconfigurationException: An `optimizer_step` did not call the closure.
        """
        self._arguments = (batch, batch_idx) if self._takes_index else (batch,)
        self._batch_idx = batch_idx
        if not self._loop._should_accumulate():
            self._step()
        elif self._parallel:
            with _block_parallel_sync_behavior(self._strategy, block=True):
                self()
        else:
            self()
        self._arguments = ()
        result = self.consume_result()
        return {} if result.loss is None else result.asdict()

    def _step(self) -> None:
        progress, module = self._progress.step, self._module
        progress.increment_ready()
        if "optimizer_step" in self._direct:
            self._precision.optimizer_step(self._optimizer, module, self)
        else:
            optimizer = self._strategy._lightning_optimizers[0]
            arguments = (self._trainer.current_epoch, self._batch_idx, optimizer, self)
            self.hooks.under_name("optimizer_step", module.optimizer_step, *arguments)
        progress.increment_completed()

    @override
    def __call__(self, *args: Any, **kwargs: Any) -> Tensor | None:
        """Training step, `zero_grad` on a window's first micro-batch, backward pass; returns the detached loss."""
        if torch.is_grad_enabled():
            self._result = result = self._closure()
        else:
            with torch.enable_grad():
                self._result = result = self._closure()
        return result.loss

    def _closure(self) -> ClosureResult:
        result = self._training_step()
        loss = result.closure_loss
        if loss is None:
            self.warning_cache.warn("`training_step` returned `None`. If this was on purpose, ignore this warning...")
        if not self._loop.automatic_optimization._skip_backward:
            if self._batch_idx % self._trainer.accumulate_grad_batches == 0:
                self._zero_grad()
            if loss is not None:
                self._backward(loss)
        return result

    def _backward(self, loss: Tensor) -> None:
        if "backward" not in self._direct:
            self.hooks.under_name("backward", self._strategy.backward, loss, self._optimizer)
            return
        scaled = self._precision.pre_backward(loss, self._module)
        self._precision.backward(scaled, self._module, self._optimizer)
        self._precision.post_backward(scaled, self._module)

    def _training_step(self) -> ClosureResult:
        if "training_step" in self._direct:
            with self._precision.train_step_context():
                output = self.hooks.under_name("training_step", self._module.training_step, *self._arguments)
        else:
            output = self.hooks.under_name("training_step", self._strategy.training_step, *self._arguments)
            self._strategy.post_training_step()
        if output is None and self._trainer.world_size > 1:
            raise RuntimeError(
                "Skipping the `training_step` by returning None in distributed training is not supported."
                " It is recommended that you rewrite your training logic to avoid having to skip the step in the first"
                " place."
            )
        return step_result(output, self._trainer.accumulate_grad_batches)

    def _zero_grad(self) -> None:
        progress, optimizer = self._progress.zero_grad, self._optimizer
        progress.increment_ready()
        self.hooks.call("on_before_zero_grad", optimizer)
        progress.increment_started()
        if "optimizer_zero_grad" in self._direct:
            for group in optimizer.param_groups:
                for parameter in group["params"]:
                    parameter.grad = None
        else:
            arguments = (self._trainer.current_epoch, self._batch_idx, optimizer)
            self.hooks.under_name("optimizer_zero_grad", self._module.optimizer_zero_grad, *arguments)
        progress.increment_completed()


def step_result(output: Any, micro_batches: int) -> ClosureResult:
    """Lightning's result of a training step's output; a loss is not divided by 1, which costs two kernels."""
    if micro_batches == 1:
        loss = output.get("loss") if type(output) is dict or isinstance(output, Mapping) else output
        if isinstance(loss, Tensor) and loss.is_floating_point():
            extra = {} if loss is output else {name: value for name, value in output.items() if name != "loss"}
            return ClosureResult(loss, extra=extra)
    return ClosureResult.from_training_step_output(output, micro_batches)
