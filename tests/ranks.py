"""Real ranks for tests: one process each, gloo on the loopback, started as torchrun would start them."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import tempfile
import textwrap
from pathlib import Path

TESTS = Path(__file__).parent


def on_ranks(world_size: int, code: str, *, seconds: float = 120.0) -> list[str]:
    """Run Python source in `world_size` processes; what each printed, in the order of ranks.

    Raises:
        AssertionError: A rank failed; its errors are the message.
    """
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    shared = {
        **os.environ,
        "PYTHONPATH": f"{TESTS}{os.pathsep}{os.environ.get('PYTHONPATH', '')}",
        "OMP_NUM_THREADS": "1",
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(port),
        "WORLD_SIZE": str(world_size),
        "LOCAL_WORLD_SIZE": str(world_size),
        "GROUP_RANK": "0",
        "TORCHELASTIC_RUN_ID": "tests",
    }
    command = [sys.executable, "-c", textwrap.dedent(code)]
    with tempfile.TemporaryDirectory() as folder:  # files, not pipes: a rank that prints much must not wait for another
        outputs = [Path(folder, f"{rank}.out") for rank in range(world_size)]
        started = [_started(command, shared, rank, output) for rank, output in enumerate(outputs)]
        try:
            for process in started:
                process.wait(timeout=seconds)
        finally:
            for process in started:
                process.kill()
                process.wait()
        for process, output in zip(started, outputs, strict=True):
            assert process.returncode == 0, output.with_suffix(".err").read_text()
        return [output.read_text() for output in outputs]


def _started(command: list[str], shared: dict[str, str], rank: int, output: Path) -> subprocess.Popen[bytes]:
    environment = {**shared, "RANK": str(rank), "LOCAL_RANK": str(rank)}
    with output.open("wb") as out, output.with_suffix(".err").open("wb") as err:
        return subprocess.Popen(command, env=environment, stdout=out, stderr=err)
