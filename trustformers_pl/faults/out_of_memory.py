"""Runs that go on in smaller micro-batches when memory runs out."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from lightning.pytorch import Callback
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.parallel import DistributedDataParallel
from typing_extensions import override

from trustformers_pl.compose import user_class
from trustformers_pl.decomposed import DecomposedLoss
from trustformers_pl.errors import RefusedError
from trustformers_pl.faults.averaging import average
from trustformers_pl.faults.split_step import SplitStep, parameters_of
from trustformers_pl.gradients import GradientPhase
from trustformers_pl.loop import exact_loop
from trustformers_pl.loss_window import sum_over_data_ranks
from trustformers_pl.precision_order import gradient_order
from trustformers_pl.stateful import State
from trustformers_pl.steps import sequential
from trustformers_pl.term_refusals import refuse_terms

if TYPE_CHECKING:
    from lightning.pytorch import LightningModule, Trainer

    from trustformers_pl.gradients import GradientStep


class OutOfMemorySplits(Callback):
    """Cuts batches into 2, 4, ... pieces when memory runs out in a training step, and keeps to it.

    The gradient is that of the whole batch (see `SplitStep`), for a `DecomposedLoss`. Dropout draws other masks in
    pieces than in one go; they follow from the generators where the batch began, and from the number of pieces.

    On several ranks gradients are averaged when the backward pass is over, not while it runs, so that no rank waits
    inside a backward pass for one that has to begin again; from the next step on all use the largest number of pieces.

    In a stock Trainer: `Trainer(callbacks=[OutOfMemorySplits()], plugins=[OrderedPrecision()])`.

    Args:
        max_splits: Batches are cut into at most 2^max_splits pieces.

    Attributes:
        step: The executor that it puts into the `step` slot, with `splits`, the number found so far.
        runs_steps: Whether it has.
    """

    state_version = 1

    def __init__(self, max_splits: int = 3) -> None:
        self.step = SplitStep(max_splits)
        self.runs_steps = self._took_the_slot = False

    @override
    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Take the `step` slot, where it is free, and join the gradient order.

        Raises:
            RefusedError: Pieces of a batch would not give the gradient of the batch, or others own the step.
        """
        if stage != "fit":
            return
        module = _composable(pl_module)
        exact_loop(trainer)
        gradient_order(trainer, type(self).__name__).add(GradientPhase.SYNC, self.synchronise)
        if isinstance(module.step_executor, SplitStep):  # a recipe has put it there
            self.step = module.step_executor
        else:
            module.step_executor = self.step
            self._took_the_slot = True
        self.step.splits, self.runs_steps = 0, False

    @override
    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Leave the slot."""
        del trainer, stage
        self._leave(pl_module)

    @override
    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        """The same; Lightning tears no callback down then."""
        del trainer, exception
        self._leave(pl_module)

    def _leave(self, module: LightningModule) -> None:
        if self._took_the_slot:
            del module.step_executor
            self._took_the_slot = False

    @override
    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Take over from DDP.

        Raises:
            RefusedError: A strategy that does more than average gradients, or loss terms that pieces have no mean of.
        """
        _refuse_terms(pl_module)
        if not pl_module.automatic_optimization or any(
            isinstance(one, torch.optim.LBFGS) for one in trainer.optimizers
        ):
            raise RefusedError("OutOfMemorySplits needs an optimizer step of one backward pass, which Lightning calls")
        self.runs_steps = True
        if trainer.world_size > 1:
            _wrapped(trainer).require_backward_grad_sync = False  # what its `no_sync` sets

    @override
    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Hand back to DDP."""
        del pl_module
        if trainer.world_size > 1:
            _wrapped(trainer).require_backward_grad_sync = True

    @override
    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        """Count a batch ahead for loss terms with counts of their own, as if it were an accumulation window."""
        del batch_idx
        module: Any = pl_module
        if trainer.accumulate_grad_batches == 1 and any(callable(term.count) for term in module.loss_terms):
            module.loss_window.expect([batch], module)

    def synchronise(self, step: GradientStep) -> None:
        """On several ranks: average the gradients, and agree on the number of pieces."""
        module = step.module
        if module.trainer.world_size == 1:
            return
        parameters = parameters_of(step.optimizer)
        told = torch.zeros(self.step.max_splits + 1 + len(parameters))
        told[self.step.splits] = 1
        told[self.step.max_splits + 1 :] = torch.tensor([float(p.grad is not None) for p in parameters])
        of_all = sum_over_data_ranks(told, module).cpu() > 0
        self.step.splits = int(of_all[: self.step.max_splits + 1].nonzero().max())
        used = [p for p, is_used in zip(parameters, of_all[self.step.max_splits + 1 :], strict=True) if is_used]
        for parameter in used:
            if parameter.grad is None:
                parameter.grad = torch.zeros_like(parameter)
        average([parameter.grad for parameter in used if parameter.grad is not None], module)

    def state(self) -> State:
        """The number of times that batches are cut in halves."""
        return State({"splits": self.step.splits})

    def load_state(self, state: State) -> None:
        """Go on with it; where a run goes back while it trains, memory is no larger than it was."""
        self.step.splits = max(self.step.splits, state.value["splits"])


def _composable(module: LightningModule) -> DecomposedLoss:
    name = user_class(type(module)).__name__
    if not isinstance(module, DecomposedLoss):
        raise RefusedError(
            f"OutOfMemorySplits cuts batches by loss sums and counts, and {name} has none; give it forward(batch) and "
            "loss(outputs, batch) -> (sum, count), and the mixin DecomposedLoss"
        )
    executor = module.step_executor
    if not (executor is sequential or isinstance(executor, SplitStep)):
        raise RefusedError(f"OutOfMemorySplits runs the training step, which {executor!r} runs already; give one")
    layers = [path for path, layer in module.named_modules() if isinstance(layer, _BatchNorm)]
    if layers:
        raise RefusedError(
            f"OutOfMemorySplits: {name}.{layers[0]} normalises over the batch, and would over a piece of it; use "
            "another normalisation, or give a smaller batch"
        )
    return module


def _refuse_terms(module: LightningModule) -> None:
    try:
        refuse_terms(module, 2)
    except RefusedError as error:
        raise RefusedError(f"OutOfMemorySplits cuts batches into micro-batches: {error}") from error


def _wrapped(trainer: Trainer) -> DistributedDataParallel:
    model = trainer.strategy.model
    if not isinstance(model, DistributedDataParallel):
        raise RefusedError(
            f"OutOfMemorySplits averages gradients of whole models, and {type(trainer.strategy).__name__} has no such; "
            "use `ddp`, or one device"
        )
    return model
