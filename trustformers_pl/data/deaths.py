"""Batches of a DataLoader, or one line that says what became of the next one."""

from __future__ import annotations

import signal
import threading
from functools import partial
from typing import TYPE_CHECKING, Any

from torch.utils.data._utils.signal_handling import _set_SIGCHLD_handler

from trustformers_pl.data.failures import FetchError, Told

if TYPE_CHECKING:
    from collections.abc import Iterator
    from types import FrameType

    from torch.utils.data import DataLoader

    from trustformers_pl.data.failures import Note

DEATH = "DataLoader worker"  # how torch's message begins


class Deaths:
    """Torch's handler of SIGCHLD, which raises wherever the training is when a worker dies, called between steps only.

    Attributes:
        fetching: Whether a batch is being waited for: only then it is called at once.
    """

    def __init__(self) -> None:
        self.fetching = False
        self._died = False
        self._torchs: Any = None

    def __enter__(self) -> Deaths:
        if threading.current_thread() is threading.main_thread():
            _set_SIGCHLD_handler()
            self._torchs = signal.getsignal(signal.SIGCHLD)
            signal.signal(signal.SIGCHLD, self._note)
        return self

    def __exit__(self, *_: object) -> None:
        if self._torchs is not None and signal.getsignal(signal.SIGCHLD) == self._note:
            signal.signal(signal.SIGCHLD, self._torchs)

    def _note(self, number: int, frame: FrameType | None) -> None:
        if not self.fetching:
            self._died = True
        elif callable(self._torchs):
            self._torchs(number, frame)

    def look(self) -> None:
        """Let torch look at what was put off."""
        died, self._died = self._died, False
        if died and callable(self._torchs):
            self._torchs(signal.SIGCHLD, None)


def whole_batches(loader: DataLoader[Any], epoch: int, note: Note | None = None) -> Iterator[Any]:
    """The loader's batches.

    Args:
        loader: Of `SeededBatches`.
        epoch: For the message.
        note: Told of samples that were replaced.

    Raises:
        FetchError: A sample or its collation raised, or a worker died.
    """
    if not loader.num_workers:
        yield from map(partial(_whole, note=note), loader)
        return
    with Deaths() as deaths:
        batches = iter(loader)
        while True:
            deaths.fetching = True
            try:
                deaths.look()
                batch = next(batches, deaths)
            except RuntimeError as error:
                if not str(error).startswith(DEATH):
                    raise
                said = str(error).split("\n")[0].rstrip(". ")
                raise FetchError(f"data: epoch {epoch}: {said}; out of memory? give fewer num_workers") from error
            finally:
                deaths.fetching = False
            if batch is deaths:
                return
            yield _whole(batch, note)


def _whole(batch: Any, note: Note | None) -> Any:
    return batch.delivered(note) if isinstance(batch, Told) else batch
