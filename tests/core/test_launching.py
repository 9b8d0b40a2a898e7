"""Children as processes: how they end, what they leave, and that none outlives the one who started it."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from trustformers_pl import guard, launching, locking
from trustformers_pl.errors import RefusedError
from trustformers_pl.journal import Journal
from trustformers_pl.launching import Job, in_fresh_processes


def guarded(script: str) -> subprocess.Popen[bytes]:
    return subprocess.Popen([sys.executable, "-I", "-S", guard.__file__, "sh", "-c", script], stdin=subprocess.PIPE)


def alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


@pytest.mark.parametrize(("script", "code"), [("exit 0", 0), ("exit 7", 7), ("kill -9 $$", 137)])
def test_the_guard_ends_as_its_command_does(script: str, code: int) -> None:
    """137 is what a shell reports for a process that signal 9 has ended."""
    process = guarded(script)
    assert process.wait(timeout=20) == code
    process.communicate()


@pytest.mark.parametrize("end", ["starter", "command"])
def test_what_the_command_has_started_dies_with_the_starter_or_a_failed_command(end: str) -> None:
    process = guarded("sleep 100 & echo $! > pid; " + ("wait" if end == "starter" else "exit 1"))
    deadline = time.monotonic() + 20
    while not (Path("pid").exists() and (text := Path("pid").read_text().strip())):
        assert time.monotonic() < deadline
        time.sleep(0.01)
    if end == "starter":
        assert alive(int(text))
        assert process.poll() is None
    process.communicate(timeout=20)
    assert process.returncode == (137 if end == "starter" else 1)
    while alive(int(text)):
        assert time.monotonic() < deadline
        time.sleep(0.01)


class Seen:
    def __init__(self) -> None:
        self.failures: dict[str, str | None] = {}
        self.running = self.most = 0

    def started(self, job: Job) -> None:
        self.running += 1
        self.most = max(self.most, self.running)

    def ended(self, job: Job, failure: str | None, seconds: float) -> None:
        self.running -= 1
        self.failures[job.name] = failure


@pytest.mark.parametrize("at_once", [1, 2])
def test_as_many_at_once_as_asked_and_each_with_its_own_failure(tmp_path: Path, at_once: int) -> None:
    arguments = {"good": ("--version",), "bad": ("fit", "nowhere.yaml"), "worse": ("dance",)}
    Path("bad.log").write_text("error: of an earlier attempt\n")
    seen = Seen()
    with Journal(tmp_path) as journal:
        jobs = [Job(name, given, tmp_path / f"{name}.log") for name, given in arguments.items()]
        in_fresh_processes(jobs, at_once, journal.descriptor, seen)
    assert seen.most == at_once
    assert seen.failures["good"] is None
    assert seen.failures["bad"] == "nowhere.yaml: No such file or directory; give the path of a recipe file"
    assert "invalid choice: 'dance'" in str(seen.failures["worse"])


def test_one_process_at_a_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(locking, "LOCK_SECONDS", 0.2)
    folder = tmp_path / "run"
    with Journal(folder) as journal:
        with pytest.raises(RefusedError, match=r"run: another process runs this program; wait for it, or end it first"):
            Journal(folder)
        child = launching._start(Job("a", ("plugins",), folder / "log"), journal.descriptor)
        child.process.send_signal(signal.SIGSTOP)
    # We are gone; the guard of the child holds the lock until the child is gone too.
    with pytest.raises(RefusedError, match="another process"):
        Journal(folder)
    child.process.send_signal(signal.SIGCONT)
    child.process.communicate(timeout=60)
    Journal(folder).close()
