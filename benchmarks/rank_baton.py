"""Training runs of several processes each that take turns on one machine, so that its noise meets all of them alike."""

from __future__ import annotations

import os
import random
import time
from multiprocessing import get_context
from typing import TYPE_CHECKING, Any

from trustformers_pl.testing.ranks import rank_environments

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

PRELOADED = ["trustformers_pl.testing.preloaded"]
LAST = 10**9  # in place of the number of ranks: go on to the end


class Turn:
    """In a rank: by which it waits until its run may go on.

    Attributes:
        cpu: CPU seconds of this process, block by block.
        wall: Seconds, likewise.
    """

    def __init__(self, number: int, block: int, state: Any, condition: Any) -> None:
        self.number, self.block = number, block
        self._state, self._condition = (
            state,
            condition,
        )  # [whose turn, ranks that are done, ranks, turns that have ended]
        self._steps = -1
        self._began: tuple[float, float] | None = None
        self.cpu: list[float] = []
        self.wall: list[float] = []

    def fetched(self) -> None:
        """A batch is fetched: the place where the turn may go on."""
        self._steps += 1
        if self._steps % self.block:
            return
        self._note()
        self.wait()
        self._began = time.process_time(), time.perf_counter()

    def _note(self) -> None:
        if self._began is not None:
            self.cpu.append(time.process_time() - self._began[0])
            self.wall.append(time.perf_counter() - self._began[1])
            self.done()

    def wait(self) -> None:
        """Until it is this run's turn, once more."""
        with self._condition:
            self._condition.wait_for(lambda: self._state[0] == self.number)

    def done(self) -> None:
        """This rank has come to the end of its block; the last one ends the turn."""
        with self._condition:
            if self._state[2] == LAST:
                return
            ended = self._state[3]
            self._state[1] += 1
            if self._state[1] == self._state[2]:
                self._state[0], self._state[1], self._state[3] = -1, 0, ended + 1
            self._condition.notify_all()
            self._condition.wait_for(lambda: self._state[3] > ended)


def take_turns(
    variants: Mapping[str, tuple[int, Callable[..., None], tuple[Any, ...]]], block: int, blocks: int, seed: int = 0
) -> dict[str, tuple[list[float], list[float]]]:
    """Run all variants, one block of steps of one of them at a time, in a new random order each round.

    Args:
        variants: Name -> ranks, and what each rank calls: `function(turn, *arguments)`, of a module that can be
            imported, which calls `turn.fetched()` with each batch and trains `block * (blocks + 2)` of them.
        block: Steps of a turn.
        blocks: Turns that count; the first one of each does not.
        seed: Of the orders.

    Returns:
        For each variant the CPU seconds of all its ranks, and the seconds on the clock, block by block.

    Raises:
        RuntimeError: A rank died.
    """
    context = get_context("forkserver")
    context.set_forkserver_preload(PRELOADED)
    condition = context.Condition()
    started: dict[str, list[tuple[Any, Any]]] = {}
    states: dict[str, Any] = {}
    for number, (name, (ranks, function, arguments)) in enumerate(variants.items()):
        states[name] = state = context.Array("i", [number, 0, ranks, 0], lock=False)
        started[name] = []
        environments = rank_environments(ranks)
        for environment in environments:
            receiver, sender = context.Pipe(duplex=False)
            inner = (sender, environment, number, block, state, condition, function, arguments)
            process = context.Process(target=_rank, args=inner, daemon=True)
            process.start()
            sender.close()
            started[name].append((process, receiver))
        _until_idle(state, condition, started[name])  # up to its first block's end: set up alone
    order = random.Random(seed)
    for _ in range(blocks):
        for name in order.sample(list(variants), len(variants)):
            with condition:
                states[name][0] = list(variants).index(name)
                condition.notify_all()
            _until_idle(states[name], condition, started[name])
    found = {}
    for name, ranks_of in started.items():
        with condition:
            states[name][0], states[name][2] = list(variants).index(name), LAST
            condition.notify_all()
        results = [receiver.recv() for _, receiver in ranks_of]
        for process, _ in ranks_of:
            process.join(10)
        cpu = [sum(parts) for parts in zip(*(result[0] for result in results), strict=True)]
        wall = [max(parts) for parts in zip(*(result[1] for result in results), strict=True)]
        found[name] = cpu[1 : blocks + 1], wall[1 : blocks + 1]
    return found


def _until_idle(state: Any, condition: Any, ranks: list[tuple[Any, Any]]) -> None:
    with condition:
        while not condition.wait_for(lambda: state[0] == -1, timeout=1.0):
            dead = [process for process, _ in ranks if process.exitcode not in (None, 0)]
            if dead:
                raise RuntimeError(f"a rank ended with exit code {dead[0].exitcode}")


def _rank(
    sender: Any,
    environment: dict[str, str],
    number: int,
    block: int,
    state: Any,
    condition: Any,
    function: Any,
    arguments: Any,
) -> None:
    import torch

    os.environ.update(environment)
    torch.set_num_threads(1)
    turn = Turn(number, block, state, condition)
    function(turn, *arguments)
    sender.send((turn.cpu, turn.wall))
