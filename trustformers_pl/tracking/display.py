"""Where progress is shown: a live picture on a terminal, plain lines elsewhere."""

from __future__ import annotations

import math
import sys
import time
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.live import Live
from rich.text import Text

from trustformers_pl.tracking.bars import Frame
from trustformers_pl.tracking.figures import clock
from trustformers_pl.tracking.handlers import redirect_handlers

if TYPE_CHECKING:
    from collections.abc import Callable

    from trustformers_pl.tracking.bars import Bar

REDRAW_SECONDS = 0.1  # at least between two pictures
REDRAW_SHARE = 0.005  # of the time, at most, is spent drawing


class Display:
    """Shows a fit and an evaluation.

    Attributes:
        fit: The bar of the running fit.
        evaluation: The bar of the running evaluation.
        due: When to call `show` next, seconds of `time.monotonic`; never, before `start` and after `stop`.

    Args:
        console: Where to draw; standard output when None.
        plain_every_seconds: Shortest time between two plain lines.
        metrics: Gives the latest metrics, pairs of a name and a value; called only when something is shown.
    """

    def __init__(
        self, console: Console | None, plain_every_seconds: float, metrics: Callable[[], list[tuple[str, str]]]
    ) -> None:
        self.fit: Bar | None = None
        self.evaluation: Bar | None = None
        self.due = math.inf
        self._console = console
        self._plain_every_seconds = plain_every_seconds
        self._metrics = metrics
        self._live: Live | None = None
        self._stderr: Any = None  # not the stream itself: a callback must pickle

    @property
    def is_live(self) -> bool:
        """Whether a picture is on a terminal now."""
        return self._live is not None

    def start(self) -> None:
        """Open the live picture if there is a terminal, else begin to wait for the first plain line."""
        # rich would take FORCE_COLOR for a terminal, and put control codes into a log file.
        console = self._console or Console(force_terminal=sys.stdout.isatty())
        self.due = time.monotonic() + self._plain_every_seconds
        if console.is_terminal and not console.is_dumb_terminal:
            # An output that goes to a file stays there.
            self._live = Live(
                get_renderable=self._frame,
                console=console,
                auto_refresh=False,
                redirect_stdout=sys.stdout.isatty(),
                redirect_stderr=sys.stderr.isatty(),
            )
            self._stderr = sys.stderr
            self._live.start()
            redirect_handlers(self._stderr, sys.stderr)
            self.due = 0.0

    def stop(self, *, leave: bool = True) -> None:
        """Give the terminal back.

        Args:
            leave: Whether the last picture stays on the screen.
        """
        self.due = math.inf
        live, self._live = self._live, None
        if live is not None:
            redirect_handlers(sys.stderr, self._stderr)
            live.transient = not leave
            live.stop()
        self.fit = self.evaluation = None

    def show(self, now: float, step: int) -> None:
        """Draw the picture, or print a plain line of the fit.

        Args:
            now: The time, seconds of `time.monotonic`.
            step: Optimizer steps completed.
        """
        if self.fit is not None:
            self.fit.done = step
        for bar in (self.fit, self.evaluation):
            if bar is not None:
                bar.now = now
        if self._live is not None:
            began = time.perf_counter()
            self._live.refresh()
            self.due = now + max(REDRAW_SECONDS, (time.perf_counter() - began) / REDRAW_SHARE)
        elif self.fit is not None:
            self.due = now + self._plain_every_seconds
            metrics = "".join(f"  {name} {value.strip()}" for name, value in self._metrics())
            beside = "" if self.evaluation is None else f"  {self.evaluation.name} {self.evaluation.count().strip()}"
            self.print(f"step {self.fit.count()}{metrics}{beside}  eta {clock(self.fit.remaining())}")

    def note(self, line: str) -> None:
        """Print a line that stays; where there is no terminal it stands in for a line of progress.

        Args:
            line: The line.
        """
        self.print(line)
        if self._live is None:
            self.due = time.monotonic() + self._plain_every_seconds

    def print(self, *args: Any, sep: str = " ", **kwargs: Any) -> None:
        """Print as the built-in `print` does, above the picture if there is one.

        Args:
            *args: What to print.
            sep: Between two of them.
            **kwargs: Further arguments of the built-in `print`.
        """
        if self._live is None or kwargs.get("file") is not None:
            print(*args, sep=sep, **({"flush": True} | kwargs))
        else:
            self._live.console.print(Text(sep.join(map(str, args))), end=kwargs.get("end", "\n"))

    def _frame(self) -> Frame:
        bars = [bar for bar in (self.fit, self.evaluation) if bar is not None]
        return Frame(bars, self._metrics() if self.fit else [])
