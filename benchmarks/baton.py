"""Training runs that take turns in one process, so that noise of the machine meets all of them alike."""

from __future__ import annotations

import random
import threading
import time
import traceback
from typing import TYPE_CHECKING

import torch
from torch.utils.data import DataLoader, Dataset

if TYPE_CHECKING:
    from collections.abc import Callable

Batch = dict[str, torch.Tensor]
VOCABULARY = 256


class Baton:
    """Whoever holds it trains; after `block` steps it goes to another run, in a new random order each round.

    Args:
        block: Steps before it is handed over.
    """

    def __init__(self, block: int = 2) -> None:
        self.block = block
        self.seconds: dict[str, list[float]] = {}
        self._turns: dict[str, threading.Semaphore] = {}
        self._fetched: dict[str, int] = {}
        self._began: dict[str, float] = {}
        self._round: list[str] = []
        self._random = random.Random(0)
        self._errors: list[str] = []

    def run(self, variants: dict[str, Callable[[], None]]) -> dict[str, list[float]]:
        """Run all variants to their end, one starting after the other has fetched its first batch.

        Returns:
            Each variant's CPU seconds of its own thread, block by block; both ends' incomplete blocks are left out.

        Raises:
            RuntimeError: A variant failed.
        """
        threads = [threading.Thread(target=self._one, args=pair, daemon=True) for pair in variants.items()]
        self._turns = {name: threading.Semaphore(0) for name in variants}
        self.seconds, self._round = {name: [] for name in variants}, list(variants)[:0:-1]
        self._fetched = dict.fromkeys(variants, -1)
        for thread in threads:
            thread.start()
        self._turns[next(iter(variants))].release()
        for thread in threads:
            thread.join()
        if self._errors:
            raise RuntimeError("\n".join(self._errors))
        return self.seconds

    def fetched(self, name: str) -> None:
        """A run fetches a batch: the place where the baton may go on."""
        self._fetched[name] += 1
        if self._fetched[name] % self.block:
            return
        if name in self._began:
            self.seconds[name].append(time.thread_time() - self._began[name])
        self._pass_on()
        self._turns[name].acquire()
        self._began[name] = time.thread_time()

    def _pass_on(self) -> None:
        if not self._round:
            self._round = self._random.sample(list(self._turns), len(self._turns))
        if self._round:
            self._turns[self._round.pop()].release()

    def _one(self, name: str, variant: Callable[[], None]) -> None:
        self._turns[name].acquire()
        try:
            variant()
        except BaseException:
            self._errors.append(f"{name}:\n{traceback.format_exc()}")
        del self._turns[name]
        self._round = [other for other in self._round if other != name]
        self._pass_on()


class Tokens(Dataset[torch.Tensor]):
    """`count` windows of random tokens; the same ones for every run."""

    deterministic = True

    def __init__(self, count: int, context_length: int) -> None:
        generator = torch.Generator().manual_seed(0)
        self.windows = torch.randint(VOCABULARY, (count, context_length + 1), generator=generator)

    def __len__(self) -> int:
        """Number of windows."""
        return len(self.windows)

    def __getitem__(self, index: int) -> torch.Tensor:
        """(T + 1,) int64."""
        return self.windows[index]


class Collate:
    """Batches for GPT; fetching one is where the baton may be handed over."""

    deterministic = True

    def __init__(self, baton: Baton | None, name: str) -> None:
        self.baton, self.name = baton, name

    def __call__(self, windows: list[torch.Tensor]) -> Batch:
        """`input_ids` and `labels`, (B, T) int64 each."""
        if self.baton is not None:
            self.baton.fetched(self.name)
        both = torch.stack(windows)
        return {"input_ids": both[:, :-1], "labels": both[:, 1:]}


def token_loader(name: str, baton: Baton | None, steps: int, batch: int, context_length: int) -> DataLoader[Batch]:
    """`steps` batches in order, in one epoch, fetched in the run's own thread."""
    return DataLoader(Tokens(steps * batch, context_length), batch, collate_fn=Collate(baton, name))  # type: ignore[arg-type]
