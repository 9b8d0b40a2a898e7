"""Killing a job at a chosen place, and finding out where it was."""

from __future__ import annotations

import json
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

from crash_data import PLACES, TRAINED
from crash_process import JobError, kill, running, wait

if TYPE_CHECKING:
    import random
    from collections.abc import Callable
    from pathlib import Path

    from crash_process import Processes

# Found from outside; the other places are found by crash_data, in the process itself.
OUTSIDE = ("moment", "saving")
AGAIN = ("moment", "saving", "resumed")  # where a run is killed that was killed before
EARLY_BATCHES = 3  # before the first checkpoint of this process, in all cases
POLL_SECONDS, STEP_SECONDS, SAVE_SECONDS = 0.001, 0.02, 0.02
KILLED = -9


@dataclass(frozen=True)
class Kill:
    """One SIGKILL that met a running process.

    Attributes:
        place: Where.
        step: Optimizer steps done by then.
        torn: Whether it left a checkpoint behind that was being written.
    """

    place: str
    step: int
    torn: bool


@dataclass(frozen=True)
class Whole:
    """What an uninterrupted run tells of the places.

    Attributes:
        ranks: How many there were.
        steps: Optimizer steps.
        visits: How often each place came, by its name.
    """

    ranks: int
    steps: int
    visits: dict[str, int]


def whole(folder: Path, ranks: int) -> Whole:
    """The places of a run that has ended."""
    return Whole(ranks, progress(folder)[1] + 1, json.loads((folder / PLACES).read_text(encoding="utf-8")))


def progress(folder: Path) -> tuple[int, int]:
    """How many processes have begun to train in a folder, and how many steps the last one knows to be done."""
    path = folder / TRAINED.format(rank=0)
    lines = path.read_text(encoding="utf-8").splitlines() if path.exists() else []
    starts = sum(line.startswith('["start"') for line in lines)
    last = json.loads(lines[-1]) if lines else [0]
    return starts, last[1] if last[0] == "start" else last[0]


def saved(folder: Path) -> int:
    """Step of the newest checkpoint; 0 without one."""
    return max((int(path.name.removeprefix("step-")) for path in (folder / "checkpoints").glob("step-*")), default=0)


def unfinished(folder: Path) -> set[str]:
    """Names of the checkpoints that are being written, or were when their process died."""
    return {path.name for path in (folder / "checkpoints").glob(".step-*.tmp-*")}


@dataclass
class Strike:
    """One start of a job that is to be killed.

    Args:
        folder: The run folder.
        place: Where.
        expected: What an uninterrupted run tells.
        moments: Draws what is left open.
        victims: The first so many ranks are those that may be killed; the others follow them.
    """

    folder: Path
    place: str
    expected: Whole
    moments: random.Random
    victims: int

    def fatal(self) -> str:
        """The value of `CRASH_AT`: one visit of the place among those that are still to come."""
        if self.place in OUTSIDE:
            return ""
        left = 1 - saved(self.folder) / self.expected.steps
        visits = EARLY_BATCHES if self.place == "resumed" else int(self.expected.visits[self.place] * left)
        rank = 0 if self.place == "rename" else self.moments.randrange(self.victims)
        return f"{self.place}:{self.moments.randint(1, max(1, visits))}:{rank}"

    def on(self, start: Callable[[str], Processes]) -> Kill | None:
        """Start the job with a value of `CRASH_AT` and kill it; no `Kill` if it ends, or had ended, before.

        Raises:
            JobError: It failed.
        """
        starts, torn, first = progress(self.folder)[0], unfinished(self.folder), saved(self.folder)
        if first == self.expected.steps:
            return None
        job = start(self.fatal())
        if self.place in OUTSIDE:
            self._await(job, lambda: progress(self.folder)[0] > starts)
            target = self.moments.randrange(first, self.expected.steps)
            self._await(job, lambda: progress(self.folder)[1] >= target)
            self._strike(job, torn)
        else:
            self._await(job, lambda: False)
        if self.expected.ranks > 1:  # the others may still wait for the dead one
            time.sleep(self.moments.uniform(0, STEP_SECONDS))
            kill(job)
        codes = wait(job)
        if KILLED not in codes and any(codes):
            raise JobError(codes, job)
        torn_now = bool(unfinished(self.folder) - torn)
        return Kill(self.place, progress(self.folder)[1], torn_now) if any(codes) else None

    def _await(self, job: Processes, reached: Callable[[], bool]) -> None:
        while running(job) and not reached():
            time.sleep(POLL_SECONDS)

    def _strike(self, job: Processes, torn: set[str]) -> None:
        if self.place == "saving":
            self._await(job, lambda: bool(unfinished(self.folder) - torn))
        time.sleep(self.moments.uniform(0, SAVE_SECONDS if self.place == "saving" else STEP_SECONDS))
        kill(job, [self.moments.randrange(self.victims)], with_workers=self.moments.random() < 0.5)
