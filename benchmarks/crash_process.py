"""`trustformers-pl fit` as processes that can be killed: forked from a server that has imported all, or fresh ones."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import sys
import time
from multiprocessing import get_context, set_start_method
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

LIMIT_SECONDS = 300.0


class JobError(Exception):
    """A job did not end as it should; the message has its exit codes and errors."""

    def __init__(self, codes: Sequence[int], job: Processes) -> None:
        super().__init__(f"the job ended with {codes}:\n{job.errors()}")


class Processes(Protocol):
    """One start of a job: a process a rank, as far as we have started them; each in a session of its own."""

    def pids(self) -> Sequence[int]:
        """The process of each rank."""

    def codes(self) -> Sequence[int | None]:
        """How each ended, negative by a signal; None while it runs."""

    def errors(self) -> str:
        """What they wrote to their standard error."""


class Forked:
    """Forked from the server, which costs milliseconds; ranks find each other as torchrun's do."""

    def __init__(self, arguments: Sequence[str], ranks: int, environment: Mapping[str, str], errors: Path) -> None:
        context = get_context("forkserver")
        context.set_forkserver_preload(["crash_preloaded"])
        self.outputs = [errors.with_suffix(f".{rank}") for rank in range(ranks)]
        variables = _as_torchrun(ranks)
        self.processes = [
            context.Process(target=_fit, args=(list(arguments), {**environment, **of_rank}, str(output)))
            for of_rank, output in zip(variables, self.outputs, strict=True)
        ]
        for process in self.processes:
            process.start()

    def pids(self) -> list[int]:
        """The process of each rank."""
        return [process.pid for process in self.processes if process.pid is not None]

    def codes(self) -> list[int | None]:
        """How each ended."""
        return [process.exitcode for process in self.processes]

    def errors(self) -> str:
        """Of all ranks."""
        return "".join(path.read_text(errors="replace") for path in self.outputs if path.exists())


class Fresh:
    """The command in an interpreter of its own, which starts further ranks itself."""

    def __init__(self, arguments: Sequence[str], ranks: int, environment: Mapping[str, str], errors: Path) -> None:
        del ranks  # they are in the arguments
        self.output = errors
        with errors.open("wb") as file:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "trustformers_pl.cli", *arguments],
                env={**os.environ, **environment},
                stdout=subprocess.DEVNULL,
                stderr=file,
                start_new_session=True,
            )

    def pids(self) -> list[int]:
        """The command's."""
        return [self.process.pid]

    def codes(self) -> list[int | None]:
        """How it ended."""
        return [self.process.poll()]

    def errors(self) -> str:
        """Of all ranks."""
        return self.output.read_text(errors="replace")


def _fit(arguments: list[str], environment: Mapping[str, str], errors: str) -> None:
    """In the forked process: what `python -m trustformers_pl.cli` does."""
    from trustformers_pl.cli.main import main

    os.setsid()
    set_start_method("fork", force=True)  # Linux's own; the server's would be handed down to the loader's workers
    os.environ.update(environment)
    for path, stream in ((os.devnull, 1), (errors, 2)):
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        os.dup2(descriptor, stream)
        os.close(descriptor)
    sys.argv = ["trustformers-pl", *arguments]
    sys.exit(main(arguments))


def _as_torchrun(ranks: int) -> list[dict[str, str]]:
    if ranks == 1:
        return [{}]
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    shared = {
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(port),
        "WORLD_SIZE": str(ranks),
        "LOCAL_WORLD_SIZE": str(ranks),
        "GROUP_RANK": "0",
        "TORCHELASTIC_RUN_ID": "crash-trials",
    }
    return [{**shared, "RANK": str(rank), "LOCAL_RANK": str(rank)} for rank in range(ranks)]


def running(job: Processes) -> bool:
    """Whether no process of the job has ended."""
    return all(code is None for code in job.codes())


def kill(job: Processes, ranks: Sequence[int] | None = None, *, with_workers: bool = True) -> None:
    """SIGKILL, to all ranks or to these, and to all that they have started or to them alone."""
    pids = job.pids()
    for rank in range(len(pids)) if ranks is None else ranks:
        with contextlib.suppress(ProcessLookupError):
            (os.killpg if with_workers else os.kill)(pids[rank], signal.SIGKILL)


def wait(job: Processes) -> list[int]:
    """How the processes ended; those that take too long are killed."""
    deadline = time.monotonic() + LIMIT_SECONDS
    while (codes := job.codes()) and None in codes:
        if time.monotonic() > deadline:
            kill(job)
        time.sleep(0.005)
    return [code for code in codes if code is not None]


def finish(job: Processes) -> None:
    """Wait for a good end.

    Raises:
        JobError: There was another.
    """
    codes = wait(job)
    if any(codes):
        raise JobError(codes, job)
