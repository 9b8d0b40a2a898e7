"""Ready gloo ranks: processes forked from a server that has torch and Lightning imported already."""

from __future__ import annotations

import os
import signal
import socket
import sys
import tempfile
import time
import traceback
from multiprocessing import connection, get_context
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from multiprocessing.connection import Connection
    from multiprocessing.context import ForkServerProcess

PRELOADED = ["pytest", "trustformers_pl.testing.preloaded"]


class RankError(AssertionError):
    """A rank failed, was killed when it should not have been, or took too long; the message has its errors."""


class Ranks:
    """A pool that never runs dry: each call gets new processes, which cost a fork and not an import.

    The first call starts the server, a few seconds; after that two ranks with a process group cost some 50
    milliseconds. Every rank starts with the caller's working folder, `sys.path` and environment, and takes all that it
    leaves behind (process groups, threads, environment) with it.
    """

    def run(self, world_size: int, function: Callable[..., Any], *arguments: Any, seconds: float = 120.0) -> list[Any]:
        """What `function(*arguments)` returns on each of `world_size` ranks, in their order.

        Args:
            world_size: How many ranks; they find each other as torchrun's would (`RANK`, `WORLD_SIZE`, …).
            function: Of a module that can be imported; picklable, as are arguments and results.
            arguments: The same on all ranks.
            seconds: Before the ranks are killed.

        Raises:
            RankError: A rank raised, died or took too long.
        """
        codes, results, errors = self._run(world_size, function, arguments, seconds)
        failed = [rank for rank, code in enumerate(codes) if code != 0]
        if failed:
            rank = min(failed, key=lambda rank: codes[rank] == -signal.SIGTERM)  # not one that only waited for it
            raise RankError(f"rank {rank} of {world_size} {_ending(codes[rank])}:\n{errors[rank]}")
        return results

    def run_until_killed(
        self, world_size: int, function: Callable[..., Any], *arguments: Any, seconds: float = 120.0
    ) -> None:
        """Run a function that ends its processes with SIGKILL.

        Raises:
            RankError: A rank ended in another way.
        """
        codes, _, errors = self._run(world_size, function, arguments, seconds)
        for rank, code in enumerate(codes):
            if code != -signal.SIGKILL:
                raise RankError(f"rank {rank} of {world_size} {_ending(code)}, not by SIGKILL:\n{errors[rank]}")

    def _run(
        self, world_size: int, function: Callable[..., Any], arguments: tuple[Any, ...], seconds: float
    ) -> tuple[list[int | None], list[Any], list[str]]:
        context = get_context("forkserver")
        context.set_forkserver_preload(PRELOADED)
        environments = rank_environments(world_size)
        with tempfile.TemporaryDirectory() as folder:  # not the run's folder, which is looked at
            outputs = [Path(folder, f"rank-{rank}") for rank in range(world_size)]
            pipes = [context.Pipe(duplex=False) for _ in range(world_size)]
            processes = [
                context.Process(target=_rank, args=(sender, environment, str(output), function, arguments), daemon=True)
                for (_, sender), environment, output in zip(pipes, environments, outputs, strict=True)
            ]
            for process in processes:
                process.start()
            for _, sender in pipes:
                sender.close()
            results = _wait([receiver for receiver, _ in pipes], processes, seconds)
            errors = [output.read_text(errors="replace") if output.exists() else "" for output in outputs]
        return [process.exitcode for process in processes], results, errors


def _wait(receivers: list[Connection], processes: list[ForkServerProcess], seconds: float) -> list[Any]:
    """Collect results until all ranks have ended; when one fails, the others get a moment, and are killed."""
    results: list[Any] = [None] * len(processes)
    open_ones = dict(enumerate(receivers))
    deadline = time.monotonic() + seconds
    while open_ones and (left := deadline - time.monotonic()) > 0:
        for ready in connection.wait(list(open_ones.values()), timeout=left):
            rank = next(rank for rank, receiver in open_ones.items() if receiver is ready)
            try:
                results[rank] = receivers[rank].recv()
            except EOFError:
                del open_ones[rank]
                processes[rank].join()
                if processes[rank].exitcode != 0:
                    deadline = min(deadline, time.monotonic() + 5.0)
    for process in processes:
        process.join(max(0.0, deadline - time.monotonic()))
        if process.is_alive():
            process.terminate()
            process.join()
    return results


def _rank(
    sender: Connection, environment: Mapping[str, str], output: str, function: Callable[..., Any], arguments: Any
) -> None:
    os.environ.clear()
    os.environ.update(environment)
    descriptor = os.open(output, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    for stream in (1, 2):
        os.dup2(descriptor, stream)
    os.close(descriptor)
    try:
        sender.send(function(*arguments))
        code = 0
    except BaseException:
        traceback.print_exc()
        code = 1
    sys.stdout.flush()
    sys.stderr.flush()
    sender.close()
    os._exit(code)  # a process group that waits for a dead rank must not keep this one


def rank_environments(world_size: int) -> list[dict[str, str]]:
    """The environment of each of so many ranks, as torchrun would set it; of a single one without a process group."""
    if world_size == 1:
        return [{**os.environ, "OMP_NUM_THREADS": "1"}]
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    shared = {
        **os.environ,
        "OMP_NUM_THREADS": "1",
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(port),
        "WORLD_SIZE": str(world_size),
        "LOCAL_WORLD_SIZE": str(world_size),
        "GROUP_RANK": "0",
        "TORCHELASTIC_RUN_ID": "trustformers-pl-testing",
    }
    return [{**shared, "RANK": str(rank), "LOCAL_RANK": str(rank)} for rank in range(world_size)]


def _ending(code: int | None) -> str:
    if code is None or code == -signal.SIGTERM:
        return "took too long, or waited for one that had failed"
    return f"was killed by {signal.Signals(-code).name}" if code < 0 else f"ended with exit code {code}"
