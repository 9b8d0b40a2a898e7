"""The terminal while a run trains: one calm bar, a line a validation; plain lines where there is no terminal."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

from lightning.pytorch.callbacks import ProgressBar
from typing_extensions import override

from trustformers_pl.tracking.bars import Bar
from trustformers_pl.tracking.display import Display
from trustformers_pl.tracking.shown import shown_metrics, total_batches, total_steps, validation_line

if TYPE_CHECKING:
    from lightning.pytorch import LightningModule, Trainer
    from rich.console import Console


class Progress(ProgressBar):
    """Shows how far the fit is and the latest metrics; most steps cost it one look at the clock.

    On a terminal: a bar for the whole fit by optimizer step, redrawn at most ten times a second, a second one while a
    validation runs, and a permanent line after each validation. Colours follow `NO_COLOR`. Where standard output is no
    terminal: no control codes, a line after each validation and at most one every `plain_every_seconds`.

    Args:
        plain_every_seconds: Shortest time between two lines of progress where there is no terminal, seconds.
        console: Where to draw; standard output when None.
    """

    def __init__(self, *, plain_every_seconds: float = 30.0, console: Console | None = None) -> None:
        super().__init__()
        self._display = Display(console, plain_every_seconds, self._latest)
        self._enabled = True

    def _latest(self) -> list[tuple[str, str]]:
        return shown_metrics(self.trainer)

    @property
    def is_enabled(self) -> bool:
        """Whether this process shows anything: rank zero does, unless it was disabled."""
        return self._enabled

    @override
    def disable(self) -> None:
        """Show nothing from now on."""
        self._enabled = False
        self._display.stop()

    @override
    def enable(self) -> None:
        """Show the next loop that starts."""
        self._enabled = True

    @override
    def print(self, *args: Any, **kwargs: Any) -> None:
        """Print as the built-in `print` does, above the bar."""
        self._display.print(*args, **kwargs)

    def _begin(self, name: str, batches: float | list[int | float]) -> None:
        if not self._enabled or self.trainer.sanity_checking:
            return
        now = time.monotonic()
        self._display.evaluation = Bar(name, now, total=total_batches(batches))
        if self._display.fit is None:
            self._display.start()

    def _end(self) -> float | None:
        """Take the evaluation's bar away; how long it took, seconds, or None when none was shown."""
        bar, self._display.evaluation = self._display.evaluation, None
        if self._display.fit is None:
            self._display.stop(leave=False)
        return None if bar is None else time.monotonic() - bar.began

    def _show_if_due(self) -> None:
        if (now := time.monotonic()) >= self._display.due:
            self._display.show(now, self.trainer.global_step)

    @override
    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Start the fit's bar, at the step from which the run resumes."""
        if not self._enabled:
            return
        step = trainer.global_step
        self._display.fit = Bar("train", time.monotonic(), first=step, done=step, total=total_steps(trainer))
        self._display.start()
        if step:
            self._display.note(f"resumed at step {step}")

    @override
    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Name the epoch where nothing but epochs divides the run."""
        bar = self._display.fit
        if bar is not None and bar.total is None:
            bar.name = f"epoch {trainer.current_epoch}"

    @override
    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Redraw when it is time."""
        self._show_if_due()

    @override
    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Add the validation's bar."""
        self._begin("validate", trainer.num_val_batches)

    @override
    def on_validation_batch_end(self, *args: Any, **kwargs: Any) -> None:
        """Advance the evaluation's bar."""
        bar = self._display.evaluation
        if bar is not None:
            bar.done += 1
            self._show_if_due()

    on_test_batch_end = on_validation_batch_end
    on_predict_batch_end = on_validation_batch_end

    @override
    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Leave one line that says what the validation found."""
        fit, seconds = self._display.fit, self._end()
        if seconds is not None and fit is not None:
            self._display.note(validation_line(trainer, seconds, width=len(str(fit.total or ""))))

    def on_pass_start(self, trainer: Trainer, name: str, batches: int | None) -> None:
        """Show the bar of a pass over data beside the training, as some features make one.

        Args:
            trainer: Of the run.
            name: What it is for.
            batches: How many there are; None where nobody knows.
        """
        del trainer
        self._begin(name, float("inf") if batches is None else batches)
        self._show_if_due()

    def on_pass_batch_end(self) -> None:
        """Advance that bar."""
        self.on_validation_batch_end()

    def on_pass_end(self) -> None:
        """Take it away."""
        self._end()

    @override
    def on_test_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Show the test's bar."""
        self._begin("test", trainer.num_test_batches)

    @override
    def on_test_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Take the test's bar away."""
        self._end()

    @override
    def on_predict_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Show the prediction's bar."""
        self._begin("predict", trainer.num_predict_batches)

    @override
    def on_predict_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Take the prediction's bar away."""
        self._end()

    @override
    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Leave the finished bar on the screen."""
        if self._display.is_live:
            self._display.show(time.monotonic(), trainer.global_step)
        self._display.stop()

    @override
    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        """Give the terminal back."""
        self._display.stop()

    @override
    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Give the terminal back."""
        self._display.stop()
