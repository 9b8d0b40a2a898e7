"""The thread that writes checkpoints while training goes on."""

from __future__ import annotations

import logging
import os
import sys
import threading
from concurrent import futures
from typing import TYPE_CHECKING

from trustformers_pl.errors import CheckpointError

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    GiveUp = Callable[[BaseException], None]

logger = logging.getLogger(__name__)
_NICER = 5


class BackgroundWriter:
    """Runs writes in order, one at a time: who has the next one waits for the one before.

    It takes part in no collective: it only writes what this rank has been given before. A write that the system refuses
    is tried again after each of some pauses, each time with a line in the log; what the last attempt raises is raised
    by the next `wait`. A process that ends in any ordinary way first ends its write.
    """

    def __init__(self, pauses: Sequence[float] = (1.0, 5.0)) -> None:
        """Start nothing yet.

        Args:
            pauses: Seconds between attempts; one attempt more than pauses is made.
        """
        self._pauses = tuple(pauses)
        self._pool: futures.ThreadPoolExecutor | None = None
        self._running: futures.Future[None] | None = None
        self._hurry = threading.Event()

    @property
    def hurry(self) -> threading.Event:
        """Set while somebody waits for the end, and nothing is to be waited for."""
        return self._hurry

    def submit(self, write: Callable[[], None], give_up: GiveUp | None = None) -> None:
        """Start a write, when the one before has ended.

        Args:
            write: What to do; what it reads must not change until it has ended.
            give_up: Called with the error of the last attempt.

        Raises:
            CheckpointError: The write before failed; this one is then not begun.
        """
        self.wait()
        if self._pool is None:
            self._pool = futures.ThreadPoolExecutor(1, thread_name_prefix="checkpoint", initializer=_step_back)
        self._running = self._pool.submit(attempt, lambda: self._attempts(write), give_up)

    @property
    def failed(self) -> bool:
        """Whether a write has ended in an error that nobody was told of; this does not wait."""
        running = self._running
        return running is not None and running.done() and running.exception() is not None

    def wait(self) -> None:
        """Wait until nothing is being written.

        Raises:
            CheckpointError: The write failed; told once.
        """
        if self._running is None:
            return
        futures.wait([self._running])  # when this is interrupted, the write is still known
        running, self._running = self._running, None
        running.result()

    def close(self) -> None:
        """End the write, without pauses and further attempts, and the thread.

        Raises:
            CheckpointError: The write failed, and nobody was told before.
        """
        self._hurry.set()
        try:
            self.wait()
        finally:
            if self._pool is not None:
                self._pool.shutdown()
            self._pool = None
            self._hurry.clear()

    def _attempts(self, write: Callable[[], None]) -> None:
        for pause in self._pauses:
            try:
                return write()
            except CheckpointError as error:
                if not isinstance(error.__cause__, OSError) or self._hurry.is_set():
                    raise
                logger.warning("%s; trying again in %g s", error, pause)
            self._hurry.wait(pause)
        return write()


def attempt(write: Callable[[], None], give_up: GiveUp | None) -> None:
    """Write, and say so where it failed.

    Args:
        write: What to do.
        give_up: Called with the error, which is then raised.
    """
    try:
        write()
    except BaseException as error:
        if give_up is not None:
            give_up(error)
        raise


def _step_back() -> None:
    """Let the training have the processor first. Linux has niceness by thread, and threads inherit it."""
    if sys.platform == "linux":
        os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), os.getpriority(os.PRIO_PROCESS, 0) + _NICER)
