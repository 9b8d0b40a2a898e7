"""What the ranks of a check do: module-level functions, so that they can be sent to other processes."""

from __future__ import annotations

import os
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from trustformers_pl.testing.trial import Die, Fingerprint, train

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping


@dataclass(frozen=True)
class RankTrial:
    """What one rank has to say after a training.

    Attributes:
        state: As in `Trial`.
        logged: As in `Trial`.
        written: Files under the run folder that this rank opened for writing, or renamed to.
        evidence: What each feature's `probe` says.
    """

    state: Fingerprint
    logged: Fingerprint
    written: list[str]
    evidence: dict[str, str | None]


def train_on_rank(sections: Mapping[str, Any], folder: str, measured: Collection[str] = ()) -> RankTrial:
    """Train as this rank, and watch what is written."""
    written = watch_writes(Path(folder))
    trial = train(sections, folder, measured=measured)
    return RankTrial(trial.state, trial.logged, sorted(written), trial.evidence)


def train_and_die(sections: Mapping[str, Any], folder: str, after_step: int) -> None:
    """Train, and die by SIGKILL after a step."""
    train(sections, folder, also=[Die(after_step)])


def watch_writes(folder: Path) -> set[str]:
    """Paths under a folder that this process writes from now on, relative to it; the process must end soon after.

    An audit hook cannot be removed, which is why this is for processes that do nothing else.
    """
    written: set[str] = set()
    root = str(folder.resolve()) + os.sep

    def note(event: str, arguments: tuple[Any, ...]) -> None:
        if event == "open" and _writes(*arguments):
            path = arguments[0]
        elif event == "os.rename":
            path = arguments[1]
        else:
            return
        absolute = os.path.abspath(os.fsdecode(path)) if isinstance(path, str | bytes | os.PathLike) else ""  # noqa: PTH100
        if absolute.startswith(root):
            written.add(absolute.removeprefix(root))

    sys.addaudithook(note)
    return written


def _writes(path: object, mode: object, flags: object) -> bool:
    del path
    if isinstance(mode, str):
        return any(letter in mode for letter in "wax+")
    return isinstance(flags, int) and bool(flags & (os.O_WRONLY | os.O_RDWR | os.O_CREAT))
