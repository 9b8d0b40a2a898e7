"""Children of a program as processes: each a fresh one, some at a time, none of which outlives the program's."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from trustformers_pl import guard
from trustformers_pl.recipe.layers import ENVIRONMENT_PREFIX, RESERVED_VARIABLES

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

POLL_SECONDS = 0.05
TAIL_BYTES = 64 * 1024


@dataclass(frozen=True)
class Job:
    """One call of `trustformers-pl`.

    Attributes:
        name: The child's.
        arguments: Of the command, without its name.
        log: The file that its output is appended to; its folder exists.
    """

    name: str
    arguments: tuple[str, ...]
    log: Path


class Watcher(Protocol):
    """Who is told when jobs start and end."""

    def started(self, job: Job) -> None:
        """The job is about to start."""

    def ended(self, job: Job, failure: str | None, seconds: float) -> None:
        """The job has ended: well, or for the reason given in one line."""


class Launch(Protocol):
    """How jobs are run. `held` is a file descriptor that must stay open while any of them lives."""

    def __call__(self, jobs: Sequence[Job], at_once: int, held: int, watcher: Watcher) -> None:
        """Run all jobs, at most `at_once` at a time, and tell the watcher."""


@dataclass
class _Running:
    job: Job
    process: subprocess.Popen[bytes]
    since: float
    log_start: int


def in_fresh_processes(jobs: Sequence[Job], at_once: int, held: int, watcher: Watcher) -> None:
    """Run each job in a new interpreter under a guard, so that nothing leaks from one to the next.

    If this function is left by an exception, or its process dies in any way, the jobs that run are killed.
    """
    waiting, running = list(jobs), list[_Running]()
    try:
        while waiting or running:
            while waiting and len(running) < at_once:
                job = waiting.pop(0)
                watcher.started(job)
                running.append(_start(job, held))
            for one in [one for one in running if one.process.poll() is not None]:
                running.remove(one)
                watcher.ended(one.job, _failure(one), time.monotonic() - one.since)
            time.sleep(POLL_SECONDS)
    finally:
        for one in running:
            one.process.communicate()  # closes the guard's standard input, and waits until it has killed


def _start(job: Job, held: int) -> _Running:
    command = [sys.executable, "-m", "trustformers_pl.cli", *job.arguments]
    with job.log.open("ab") as log:
        log_start = log.tell()  # before the child writes: the two share one offset
        process = subprocess.Popen(  # noqa: S603 - our own interpreter and command
            [sys.executable, "-I", "-S", guard.__file__, *command],
            stdin=subprocess.PIPE,
            stdout=log,
            stderr=log,
            env=_environment(),
            pass_fds=(held,),
            start_new_session=True,  # Ctrl-C is for us alone; we end the children
        )
        return _Running(job, process, time.monotonic(), log_start)


def _environment() -> dict[str, str]:
    """Ours, without the variables that our recipe has taken in: a child's sections must win over them."""
    kept = {k: v for k, v in os.environ.items() if not k.startswith(ENVIRONMENT_PREFIX) or k in RESERVED_VARIABLES}
    path = os.pathsep.join(entry for entry in sys.path if entry)
    return {**kept, "PYTHONPATH": path, "PYTHONUNBUFFERED": "1"}  # unbuffered: the log's lines stay in order


def _failure(ended: _Running) -> str | None:
    code = ended.process.returncode
    if code == 0:
        return None
    number = -code if code < 0 else code - 128
    if number in set(signal.Signals):
        return f"killed by {signal.Signals(number).name}"
    return _last_error(ended.job.log, ended.log_start) or f"exit code {code}"


def _last_error(log: Path, start: int) -> str:
    """The last line that tells of an error, or else the last line."""
    with log.open("rb") as file:
        file.seek(max(start, log.stat().st_size - TAIL_BYTES))
        lines = [line.strip() for line in file.read().decode(errors="replace").splitlines() if line.strip()]
    told = [line for line in lines if line.startswith("error: ")]
    return (told or lines or [""])[-1].removeprefix("error: ")
