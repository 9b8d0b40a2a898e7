"""Each call of a save to the system fails, or is the last that the process makes: the run resumes to the same bits.

`test_background.py` and `test_kill.py` let every call of the write alone fail and be cut; here it is a run's.
"""

from __future__ import annotations

import os
import shutil
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

from test_background import EVERY_TEN, FOLDER, Faults, without_pauses
from test_exact_resume import tree

from trustformers_pl import assemble
from trustformers_pl.checkpoint import verify
from trustformers_pl.checkpoint.folder import steps
from trustformers_pl.errors import CheckpointError

Write = Callable[..., str]
TWO_SAVES = EVERY_TEN.replace("max_steps: 40", "max_steps: 8").replace("every_n_steps: 10", "every_n_steps: 4")


class Kills(Faults):
    """The process dies instead of the n-th call."""

    def trace(self, frame: Any, event: str, arg: Any) -> None:
        try:
            super().trace(frame, event, arg)
        except OSError:
            os.kill(os.getpid(), signal.SIGKILL)


def killed(recipe: str, at: int) -> bool:
    """Train in a process of its own; whether the kill came."""
    if (pid := os.fork()) == 0:
        with Kills(at):
            assemble(recipe).fit()
        os._exit(0)
    return os.WIFSIGNALED(os.waitpid(pid, 0)[1])


def failing(recipe: str, at: int) -> bool:
    """Train; whether it ended in an error."""
    try:
        with Faults(at):
            without_pauses(assemble(recipe)).fit()
    except CheckpointError:
        return True
    return False


def test_a_run_resumes_wherever_a_save_fails_or_is_cut(write: Write) -> None:
    recipe = write(TWO_SAVES)
    with Faults(None) as counted:
        assemble(recipe).fit()
    expected = {step: tree(path) for step, path in steps(FOLDER).items()}
    calls = counted.count // 2
    failed = 0
    assert calls >= 15  # three files are opened, written and synced; two folders synced; a rename
    for at in range(calls + 1, counted.count + 1):  # of the second save: there is an older one to go back to
        Path("runs").rename(f"before-{at}")
        if at % 2:
            failed += failing(recipe, at)
        else:
            assert killed(recipe, at)
        for path in steps(FOLDER).values():
            verify(path)  # nothing torn has a checkpoint's name
        assemble(recipe).fit()
        assert {step: tree(path) for step, path in steps(FOLDER).items()} == expected, at
        assert all(path.name.startswith("step-") for path in FOLDER.iterdir())
    assert failed > calls // 4  # but not what only looks for older ones to remove, when the new one is on the disk


def test_a_run_killed_before_it_removed_older_checkpoints_removes_them_when_it_has_no_step_left(write: Write) -> None:
    recipe = write(TWO_SAVES)
    one_kept = ["checkpoint.keep_last=1"]
    assemble(recipe, one_kept).fit()
    assert list(steps(FOLDER)) == [8]
    shutil.copytree(FOLDER / "step-00000008", FOLDER / "step-00000004")
    assemble(recipe, one_kept).fit()
    assert list(steps(FOLDER)) == [8]
