"""How the code blocks of a page are followed."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from shown import Block

# What installs, tests or builds is followed in a clone by `test_new_clone.py`, or is what runs these tests.
ELSEWHERE = {"python3", "pip", "pytest", "tox", "mkdocs"}


def words(command: str) -> list[str]:
    return shlex.split(command, comments=True)


def to_be_run(script: str) -> str:
    """A bash block without the commands that are followed elsewhere."""
    lines = [[part.strip() for part in line.split("&&")] for line in script.splitlines()]
    kept = [
        [part for part in parts if not words(part) or Path(words(part)[0]).name not in ELSEWHERE] for parts in lines
    ]
    return "\n".join(" && ".join(parts) for parts in kept)


def put_the_command_in(folder: Path) -> None:
    """`trustformers-pl` of the package under test, where the pages say that it is."""
    (folder / ".venv" / "bin").mkdir(parents=True)
    command = folder / ".venv" / "bin" / "trustformers-pl"
    command.write_text(f'#!/bin/sh\nexec "{sys.executable}" -m trustformers_pl.cli "$@"\n')
    command.chmod(0o755)


def bash(script: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run a script as pasted into a shell that stops at the first failure; both outputs as one."""
    path = f"{Path('.venv/bin').resolve()}{os.pathsep}{os.environ['PATH']}"
    return subprocess.run(
        ["bash", "-e", "-c", script],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env={**os.environ, "PATH": path, "OMP_NUM_THREADS": "1", **environment},
        check=False,
    )


def python(block: Block) -> None:
    """Run a Python block as a program of its own, but in this process: torch is imported already."""
    exec(compile(block.text, block.page, "exec"), {"__name__": "__main__"})


def sessions(console: str) -> list[tuple[str, str]]:
    """(command, what the page says it prints) of each `$ ` line."""
    return [(s.partition("\n")[0], s.partition("\n")[2]) for s in re.split(r"^\$ ", console, flags=re.MULTILINE)[1:]]


def same_output(shown: str, printed: str) -> bool:
    """A line `…` of the page stands for any lines."""
    pieces = re.split(r"^…\n", shown, flags=re.MULTILINE)
    pattern = r"(?:.*\n)*?".join(map(re.escape, pieces))
    return re.fullmatch(pattern, printed) is not None
