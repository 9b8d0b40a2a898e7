"""Lightning's training epoch loop that trains ordinary runs by `LeanStep`, and all others by Lightning's own code."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from lightning.pytorch.loops.training_epoch_loop import _TrainingEpochLoop

from trustformers_pl.lean_step import LeanStep
from trustformers_pl.ordinary import why_not_ordinary
from trustformers_pl.precision_order import OrderedPrecision
from trustformers_pl.step_hooks import boundary_methods

if TYPE_CHECKING:
    from collections.abc import Callable

    from lightning.pytorch.loops.fetchers import _DataFetcher

SIGTERM_EVERY = 32  # batches between two looks, of all ranks together, at whether rank 0 was told to end


class LeanLoop(_TrainingEpochLoop):
    """Decides at the start of each epoch, or of the rest of one, by whose code it is trained.

    Attributes:
        why_stock: Why the epoch that runs, or ran last, needs Lightning's own code; None where it does not.
    """

    why_stock: str | None = "nothing was trained yet"
    _lean: LeanStep | None = None

    def on_run_start(self, data_fetcher: _DataFetcher) -> None:
        """Lightning's, and the decision."""
        super().on_run_start(data_fetcher)
        self._forget()
        self.why_stock = why_not_ordinary(self, data_fetcher)
        if self.why_stock is None:
            self._lean = LeanStep(self, data_fetcher)

    @property
    def global_step(self) -> int:
        """Lightning's, which looks at the module first to find out which of its optimizations counts."""
        if self._lean is None:
            return super().global_step
        return self.automatic_optimization.optim_progress.optimizer.step.total.completed

    def advance(self, data_fetcher: _DataFetcher) -> None:
        """One batch.

        Raises:
            StopIteration: The epoch ends here.
        """
        if self._lean is None:
            super().advance(data_fetcher)
        else:
            self._lean.advance(data_fetcher)

    def on_advance_end(self, data_fetcher: _DataFetcher) -> None:
        """Validation, logging and the end of the run, where they are due."""
        if self._lean is None or self._more_is_due(data_fetcher):
            super().on_advance_end(data_fetcher)
        elif not self._should_accumulate():
            self._batches_that_stepped += 1

    def _more_is_due(self, data_fetcher: _DataFetcher) -> bool:
        """Whether there is more to do after a batch than to count it."""
        trainer = self.trainer
        return (
            self._should_check_val_fx(data_fetcher)
            or self._skip_next_val
            or trainer.should_stop
            or trainer.received_sigterm
        )

    def boundary_methods(self) -> tuple[Callable[..., Any], ...]:
        """The callbacks' methods `on_step_boundary`."""
        return boundary_methods(self.trainer) if self._lean is None else self._lean.hooks.at_boundary

    def teardown(self) -> None:
        """Lightning's; and let go of the run's objects."""
        super().teardown()
        self._forget()

    def _forget(self) -> None:
        self._lean = None
        precision = self.trainer.precision_plugin
        if isinstance(precision, OrderedPrecision):
            precision.hooks = None

    def _should_accumulate(self) -> bool:
        """Lightning's, which looks at many things before it finds that nothing is accumulated."""
        return self.trainer.accumulate_grad_batches != 1 and super()._should_accumulate()

    def _should_check_val_epoch(self) -> bool:
        """Lightning's, which looks at classes after every batch."""
        decide = super()._should_check_val_epoch
        return decide() if self._lean is None else self._lean.validates(decide)

    def _broadcast_sigterm_tensor(self) -> None:
        """Lightning's, which waits for the device: at the same few batches on all ranks."""
        if self.batch_progress.total.ready % SIGTERM_EVERY == 0:
            super()._broadcast_sigterm_tensor()
