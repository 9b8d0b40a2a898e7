"""A training step that cuts its batch into pieces when memory runs out."""

from __future__ import annotations

import gc
import logging
from typing import TYPE_CHECKING, Any

import torch

from trustformers_pl.errors import DataError, DeviceMemoryError
from trustformers_pl.faults.delayed import delayed
from trustformers_pl.faults.pieces import cut, samples_in
from trustformers_pl.randomness import random_state, restore_random_state
from trustformers_pl.steps import Contribution, Minimised, sequential

if TYPE_CHECKING:
    from torch import Tensor

    from trustformers_pl.decomposed import DecomposedLoss

logger = logging.getLogger(__name__)
OF_THE_CPU = "DefaultCPUAllocator"  # which raises a plain RuntimeError


class SplitStep:
    """An executor of the `step` slot: sequential while memory lasts, and in 2^splits pieces from then on.

    Where memory runs out (`ran_out`) in the forward or the backward pass of a batch, its gradients are dropped, memory
    is freed, the random generators are put back to where the batch began, and the batch runs again in twice as many
    pieces. Each piece is a micro-batch of the loss window: a sum and a count, so that the gradient is that of the whole
    batch.

    Args:
        max_splits: The largest `splits`; one more is an error.

    Attributes:
        splits: Batches are cut into 2^splits pieces.
    """

    def __init__(self, max_splits: int) -> None:
        self.max_splits = max_splits
        self.splits = 0

    def __call__(self, module: DecomposedLoss, batch: Any) -> tuple[Tensor, Minimised]:
        """Run the step; what is returned computes nothing more than its backward pass.

        Raises:
            DeviceMemoryError: Memory ran out, and the batch cannot be cut, or not any further.
        """
        attempt = _Attempt(module, batch, self)
        if not self.splits:
            try:
                attempt.loss, contributions = sequential(module, batch)
                return delayed(attempt.loss, attempt.backward), contributions
            except RuntimeError as error:
                if not ran_out(error):
                    raise
            self.split_more(batch)
        return attempt.at_once()

    def split_more(self, batch: Any) -> None:
        """Free memory, and cut into twice as many pieces from now on.

        Raises:
            DeviceMemoryError: That would be too many, or it cannot be cut at all.
        """
        gc.collect()  # what failed may lie in cycles with its traceback
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
        try:
            samples, pieces = samples_in(batch), 2**self.splits
        except DataError as error:
            raise DeviceMemoryError(f"out of memory, and {error}") from error
        if self.splits >= self.max_splits or pieces >= samples:
            limit = "one sample each" if pieces >= samples else f"out_of_memory.max_splits = {self.max_splits}"
            raise DeviceMemoryError(
                f"out of memory with a batch of {samples} samples in {min(pieces, samples)} pieces ({limit}); "
                "give a smaller batch, shorter samples, or a smaller model"
            )
        self.splits += 1
        logger.warning(
            "out of memory: batches are cut into %d pieces from now on (at most %d)", 2 * pieces, 2**self.max_splits
        )


class _Attempt:
    """One batch: where it began, so that it can be run again."""

    def __init__(self, module: Any, batch: Any, executor: SplitStep) -> None:
        self.loss: Tensor | None = None
        self._module, self._batch, self._executor = module, batch, executor
        self._random = random_state()
        self._weighed = module.loss_window.weighed
        # The module itself may hold 16-bit copies of its parameters now.
        self._parameters = parameters_of(module.trainer.optimizers[0])

    def backward(self, factor: Tensor) -> None:
        """The backward pass of a forward pass that is done; both passes in pieces, if memory runs out."""
        before = self._take_gradients()
        loss, self.loss = self.loss, None
        assert loss is not None
        failed = False
        try:
            torch.autograd.backward(loss, factor)
        except RuntimeError as error:
            if not (failed := ran_out(error)):
                raise
        if failed:  # out here the error and what it holds are gone
            del loss
            self._take_gradients()
            self._executor.split_more(self._batch)
            self._in_pieces(factor)
        self._add(before)

    def at_once(self) -> tuple[Tensor, Minimised]:
        """Forward and backward passes in pieces; the gradients wait for their turn in a delayed backward pass."""
        before, scale = self._take_gradients(), _scale(self._module)
        total, contributions = self._in_pieces(scale)
        own = self._take_gradients()
        self._give(before)

        def backward(factor: Tensor) -> None:
            if factor != scale:  # a precision that scales in some other way
                torch._foreach_mul_([gradient for gradient in own if gradient is not None], factor / scale)
            before = self._take_gradients()
            self._give(own)
            self._add(before)

        return delayed(total, backward), contributions

    def _in_pieces(self, factor: Tensor) -> tuple[Tensor, Minimised]:
        """Leave the batch's gradients, times a factor, on the parameters; returns the loss and what it was made of."""
        while True:
            restore_random_state(self._random)
            self._module.loss_window.take_back(self._weighed)
            try:
                return self._run(cut(self._batch, 2**self._executor.splits), factor)
            except RuntimeError as error:
                if not ran_out(error):
                    raise
            self._take_gradients()
            self._executor.split_more(self._batch)

    def _run(self, pieces: Any, factor: Tensor) -> tuple[Tensor, Minimised]:
        precision = self._module.trainer.precision_plugin
        total, found = torch.zeros_like(factor), Minimised()
        for piece in pieces:
            with precision.train_step_context():
                loss, contributions = sequential(self._module, piece)
            with torch.autocast(factor.device.type, enabled=False):
                torch.autograd.backward(loss, factor.to(loss))
            torch.clear_autocast_cache()  # of weights, which has this piece's graph in it
            total = total + loss.detach()
            found = {name: _sum(found.get(name), part) for name, part in contributions.items()}
            del loss, contributions  # before the next piece needs the room
        return total, found

    def _take_gradients(self) -> list[Tensor | None]:
        taken = [parameter.grad for parameter in self._parameters]
        for parameter in self._parameters:
            parameter.grad = None
        return taken

    def _give(self, gradients: list[Tensor | None]) -> None:
        for parameter, gradient in zip(self._parameters, gradients, strict=True):
            parameter.grad = gradient

    def _add(self, before: list[Tensor | None]) -> None:
        """Add what earlier batches of the accumulation window have left, as the backward pass itself would."""
        for parameter, gradient in zip(self._parameters, before, strict=True):
            if gradient is not None:
                parameter.grad = gradient if parameter.grad is None else gradient.add_(parameter.grad)


def ran_out(error: RuntimeError) -> bool:
    """Whether an error says that there is no memory left: of an accelerator, or of a CPU under a limit."""
    return isinstance(error, torch.OutOfMemoryError) or OF_THE_CPU in str(error)


def parameters_of(optimizer: torch.optim.Optimizer) -> list[Tensor]:
    """An optimizer's parameters, in its order."""
    return [parameter for group in optimizer.param_groups for parameter in group["params"]]


def _scale(module: Any) -> Tensor:
    """What losses are multiplied by before the backward pass: their part in the window, and a loss scale."""
    trainer: Any = module.trainer
    part = torch.ones((), device=module.device) / trainer.accumulate_grad_batches
    scaler = getattr(trainer.precision_plugin, "scaler", None)
    scaled: Tensor = part if scaler is None else scaler.scale(part)
    return scaled


def _sum(before: Contribution | None, part: Contribution) -> Contribution:
    total, count = part.sum.detach(), part.count
    if before is not None:
        total, count = before.sum + total, before.count + count
    return Contribution(total, count, part.weight, part.counted)
