"""How a run looks on a terminal: a bar for the fit, one for a running validation, and the latest metrics."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from rich.console import Group
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from trustformers_pl.tracking.figures import clock

if TYPE_CHECKING:
    from rich.console import Console as RichConsole
    from rich.console import ConsoleOptions, RenderResult

ONE_LINE = 112
"""Columns from which the metrics stand beside the bar instead of below it."""


@dataclass
class Bar:
    """Progress of one loop.

    Attributes:
        name: What runs; at most 8 characters keep the bars aligned.
        began: When it began, seconds of `time.monotonic`.
        first: What was done before that: the step from which a run resumed.
        done: Steps or batches done.
        total: Of how many, or None when there is no end.
        now: When this was last brought up to date, seconds of `time.monotonic`.
    """

    name: str
    began: float
    first: int = 0
    done: int = 0
    total: int | None = None
    now: float = 0.0

    def count(self) -> str:
        """`done/total`, as wide as it will be at the end."""
        return str(self.done) if self.total is None else f"{self.done:>{len(str(self.total))}}/{self.total}"

    def elapsed(self) -> float:
        """Seconds since it began."""
        return max(self.now - self.began, 0.0)

    def remaining(self) -> float | None:
        """Seconds left at the mean speed so far, validations included; None while unknown."""
        if self.total is None or self.done <= self.first:
            return None
        return self.elapsed() / (self.done - self.first) * max(self.total - self.done, 0)


def metrics_text(metrics: list[tuple[str, str]]) -> Text:
    """Names, dimmed, each before its value.

    Args:
        metrics: Pairs of a name and a value of fixed width.

    Returns:
        One line.
    """
    parts = [part for name, value in metrics for part in ((f"{name} ", "dim"), (f"{value}  ", ""))]
    return Text.assemble(*parts, no_wrap=True, overflow="crop")


@dataclass
class Frame:
    """One picture of the display.

    Attributes:
        bars: The bars, the fit's first.
        metrics: Pairs of a name and a value of fixed width.
    """

    bars: list[Bar]
    metrics: list[tuple[str, str]]

    def __rich_console__(self, console: RichConsole, options: ConsoleOptions) -> RenderResult:
        """Lay the picture out for the terminal's width."""
        text = metrics_text(self.metrics)
        if options.max_width >= ONE_LINE:
            yield self._grid(text)
        elif self.metrics:
            yield Group(self._grid(), Text.assemble(" " * 9, text, no_wrap=True, overflow="crop"))
        else:
            yield self._grid()

    def _grid(self, *beside: Text) -> Table:
        grid = Table.grid(padding=(0, 1, 0, 0), expand=True)
        grid.add_column(min_width=8, no_wrap=True)
        grid.add_column(ratio=1)
        for _ in range(3 + len(beside)):
            grid.add_column(no_wrap=True, justify="left")
        for index, bar in enumerate(self.bars):
            grid.add_row(*self._row(bar), *(beside if index == 0 else ()))
        return grid

    @staticmethod
    def _row(bar: Bar) -> tuple[Text | ProgressBar, ...]:
        return (
            Text(bar.name, style="bold"),
            ProgressBar(
                total=None if bar.total is None else max(bar.total, 1),
                completed=bar.done,
                complete_style="cyan",
                finished_style="green",
                pulse_style="cyan",
            ),
            Text(bar.count()),
            Text(clock(bar.elapsed()), style="dim"),
            Text(f"eta {clock(bar.remaining())}", style="dim"),
        )
