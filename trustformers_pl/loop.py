"""The one subclass of Lightning's training epoch loop: it resumes at the very step that a checkpoint was taken at."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from trustformers_pl import state
from trustformers_pl.agreement import Statement, compare
from trustformers_pl.count_ahead import CountAhead, count_ahead
from trustformers_pl.epoch_length import measure
from trustformers_pl.lean_loop import LeanLoop
from trustformers_pl.logged_results import LoggedResults
from trustformers_pl.open_window import OpenWindow
from trustformers_pl.randomness import Randomness

if TYPE_CHECKING:
    from lightning import Trainer
    from lightning.pytorch.loops.fetchers import _DataFetcher


class EpochLoop(LeanLoop):
    """Lightning's loop, with step boundaries at which a checkpoint holds everything.

    At the end of each optimizer step, after the validation and logging that were due, every callback with a method
    `on_step_boundary(trainer, module)` is called: the loop's counters are whole there and no gradient is pending. Those
    with an attribute `at_end_of_boundary = True` are called after all others, the one that saves included.
    Loaders with a method `seek(epoch, batch)` are told where to start. Loggers and callbacks with a method
    `truncate_after(step)` are told, at the start, after which step their rows are of a future that never happened.
    Metrics that a callback names in an attribute `measured_times` are of the clock, and no part of a checkpoint.
    """

    _own: dict[str, Any] | None
    _rewound: bool
    _counter: CountAhead | None = None
    statements: list[Statement]
    restarting: bool

    def on_save_checkpoint(self) -> dict[str, Any]:
        """Lightning's loop state, that of the run's parts (see `Stateful`), and the loop's own. Collective."""
        parts = state.collect(self.trainer)
        own = state.gather(self._own_parts(), in_place=state.saves_on_every_rank(self.trainer))
        return {**super().on_save_checkpoint(), "parts": parts, "own": own}

    def on_load_checkpoint(self, state_dict: dict[str, Any]) -> None:
        """Restore the parts; keep the loop's own state until it starts: much draws random numbers and logs before."""
        super().on_load_checkpoint(state_dict)
        state.restore(self.trainer, state_dict.get("parts", {}))
        self._own = state_dict.get("own")

    def on_run_start(self, data_fetcher: _DataFetcher) -> None:
        """Before the first batch of an epoch, or of the rest of one."""
        self._seek(data_fetcher)
        super().on_run_start(data_fetcher)
        measure(self.trainer, data_fetcher)
        if not self._rewound:
            self._rewound = True
            compare(self.statements)
            self._rewind()
        self._counter = count_ahead(self.trainer, data_fetcher)
        self.take_up()

    def take_up(self) -> None:
        """Take over the loop's own state from the checkpoint, unless that is done.

        For who asks for logged metrics after a fit that had no step left: such a fit never starts the loop.
        """
        if self._own is not None:
            state.give_back(self._own_parts(), self._own)
            self._own = None

    def advance(self, data_fetcher: _DataFetcher) -> None:
        """One batch; the first one after a resume goes straight to training, as nothing before it is unfinished.

        Raises:
            StopIteration: The checkpoint was taken at the epoch's last batch: what is left is the end of the epoch.
        """
        if self.restarting:
            self.restarting = False
            if self._num_ready_batches_reached():
                raise StopIteration
        if self._counter is not None:
            self._counter.before_batch(self.batch_progress.current.ready)
        super().advance(data_fetcher)

    def on_advance_end(self, data_fetcher: _DataFetcher) -> None:
        """Validation and logging that are due; then the step boundary."""
        super().on_advance_end(data_fetcher)
        if self._should_accumulate():
            return
        trainer, module = self.trainer, self.trainer.lightning_module
        for on_step_boundary in self.boundary_methods():
            on_step_boundary(trainer, module)

    def update_lr_schedulers(self, interval: str, update_plateau_schedulers: bool) -> None:
        """Lightning's, except after an optimizer step that was skipped."""
        if not (interval == "step" and getattr(self.trainer.precision_plugin, "skipped", False)):
            super().update_lr_schedulers(interval, update_plateau_schedulers)

    @property
    def last_step_done(self) -> bool:
        """Whether no step of this fit is left: at a step boundary, whether this was the last one."""
        fit_loop = self.trainer.fit_loop
        if self.global_step == self.max_steps or self.trainer.should_stop:
            return True
        last_epoch = fit_loop.epoch_progress.current.processed + 1 == fit_loop.max_epochs
        return last_epoch and self._num_ready_batches_reached()

    def _own_parts(self) -> dict[str, state.Stateful]:
        trainer = self.trainer
        return {"random": Randomness(), "logged": LoggedResults(trainer), "window": OpenWindow(trainer)}

    def _seek(self, data_fetcher: _DataFetcher) -> None:
        fit_loop = self.trainer.fit_loop
        place = fit_loop.epoch_progress.current.processed, self.batch_progress.current.ready
        combined = fit_loop._combined_loader  # without a length when the data has none, so it has no truth value
        seekable = [one for one in (combined.flattened if combined is not None else []) if hasattr(one, "seek")]
        for loader in seekable:
            loader.seek(*place)
        # Without a length, the set-up has begun to iterate, and looked ahead, before anybody could say where to begin.
        if seekable and data_fetcher.length is None and (self.restarting or fit_loop.is_resuming) and place != (0, 0):
            iter(data_fetcher)

    def _rewind(self) -> None:
        for keeper in (*self.trainer.loggers, *self.trainer.callbacks):
            if hasattr(keeper, "truncate_after"):
                keeper.truncate_after(self.global_step)


def exact_loop(trainer: Trainer) -> Trainer:
    """Give a Trainer the exactly resumable epoch loop; returns the same Trainer."""
    loop = trainer.fit_loop.epoch_loop
    if not isinstance(loop, EpochLoop):
        loop.__class__ = EpochLoop
        loop._own, loop._rewound, loop.statements = None, False, []
    return trainer
