"""The trials of one case: one uninterrupted run, and runs that are killed and must end as it did."""

from __future__ import annotations

import os
import random
import shutil
import time
from collections import Counter
from dataclasses import dataclass, field
from itertools import cycle
from pathlib import Path

from crash_cases import CASES
from crash_places import AGAIN, Kill, Strike, whole
from crash_prints import fingerprint, why_not_once
from crash_process import Forked, Fresh, JobError, Processes, finish, kill

HERE = Path(__file__).parent
TEXT_BYTES = 1960  # 102 samples to train on and 20 held out, by crash_job.yaml
DRAWS = 20  # of a trial whose process ended before it was killed


@dataclass
class Result:
    """What became of one case.

    Attributes:
        trials: How many were killed at least once.
        identical: Those that ended as the uninterrupted run did.
        kills: By place; `torn` counts those that left a checkpoint behind that was being written.
        redrawn: Trials whose process had ended before.
    """

    trials: int = 0
    identical: int = 0
    kills: Counter[str] = field(default_factory=Counter)
    redrawn: int = 0

    def note(self, kills: list[Kill], *, identical: bool) -> None:
        """Count one trial."""
        self.trials += 1
        self.identical += identical
        self.kills.update(kill.place for kill in kills)
        self.kills["torn"] += sum(kill.torn for kill in kills)


class Trials:
    """The trials of one case in one folder.

    Args:
        name: Of the case.
        root: A folder for the runs.
        seed: Of the moments of the kills.
        fresh: Whether each process is an interpreter of its own.
        extra: Further overrides.
    """

    def __init__(self, name: str, root: Path, seed: int, *, fresh: bool, extra: list[str]) -> None:
        self.name, self.root, self.fresh, self.extra = name, root / name, fresh, extra
        self.case = CASES[name]
        self.moments = random.Random(f"{name} {seed}")
        self.result = Result()
        self.root.mkdir(parents=True)
        _make_text(self.root / "text")

    def run(self, number: int) -> Result:
        """One uninterrupted run, and so many trials."""
        begun = time.monotonic()
        folder = self.root / "whole"
        finish(self.start(folder))
        self.expected, self.places = fingerprint(folder, self.case.ranks), whole(folder, self.case.ranks)
        problem = why_not_once(folder, self.case.ranks, self.case.tasks)
        print(f"{self.name}: {self.places.steps} steps uninterrupted, {time.monotonic() - begun:.1f} s", flush=True)
        if problem is not None:
            raise SystemExit(f"{self.name}: uninterrupted: {problem}")
        places = cycle(self.case.places)
        for _ in range(self.moments.randrange(len(self.case.places))):  # few trials of many cases are of all places
            next(places)
        for index in range(number):
            self.trial(index, next(places))
        return self.result

    def start(self, folder: Path, crash_at: str = "") -> Processes:
        """The job, on one thread so that sums are in one order."""
        arguments = ["fit", str(HERE / "crash_job.yaml"), f"--trainer.default_root_dir={folder}"]
        arguments += [f"--data.init_args.folder={self.root / 'text'}", f"--trainer.devices={self.case.ranks}"]
        arguments += [*self.case.overrides, *self.extra]
        environment = {**self.case.environment, "CRASH_AT": crash_at}
        kind = Fresh if self.fresh else Forked
        return kind(arguments, self.case.ranks, environment, self.root / "errors")

    def trial(self, index: int, place: str) -> None:
        """Kill one to three times, resume, compare; drawn again as long as nothing was killed."""
        folder, begun = self.root / f"trial{index}", time.monotonic()
        again = [self.moments.choice(AGAIN) for _ in range(self.moments.choice((0, 0, 1, 2)))]
        for _ in range(DRAWS):
            kills, different = self._killed_and_resumed(folder, [place, *again])
            if kills:
                break
            shutil.rmtree(folder)
            self.result.redrawn += 1
        else:
            raise SystemExit(f"{self.name}: {place}: {DRAWS} times the run had ended before it was killed")
        self.result.note(kills, identical=not different)
        told = ", ".join(f"{kill.place} at {kill.step}{' (torn)' if kill.torn else ''}" for kill in kills)
        seconds = time.monotonic() - begun
        print(f"{self.name} {index}: killed: {told}; {seconds:.1f} s: {different or 'identical'}", flush=True)
        if not different:
            shutil.rmtree(folder)

    def _killed_and_resumed(self, folder: Path, places: list[str]) -> tuple[list[Kill], list[str]]:
        started: list[Processes] = []
        kills: list[Kill] = []

        victims = 1 if self.fresh else self.case.ranks  # Lightning starts the other ranks, and we do not know them

        def start(crash_at: str) -> Processes:
            started.append(self.start(folder, crash_at))
            return started[-1]

        try:
            for place in places:
                met = Strike(folder, place, self.places, self.moments, victims).on(start)
                if met is None:
                    break
                kills.append(met)
            finish(start(""))
        except JobError as error:
            return kills or [Kill("error", 0, torn=False)], [str(error)]
        finally:
            for job in started:  # workers of one that was killed alone live on for some seconds
                kill(job)
        return kills, self._different(folder)

    def _different(self, folder: Path) -> list[str]:
        found = fingerprint(folder, self.case.ranks)
        names = [name for name in {**self.expected, **found} if found.get(name) != self.expected.get(name)]
        problem = why_not_once(folder, self.case.ranks, self.case.tasks)
        return names if problem is None else [*names, problem]


def _make_text(folder: Path) -> None:
    folder.mkdir()
    source = (Path(os.__file__).parent / "argparse.py").read_text(encoding="ascii", errors="ignore")
    (folder / "text.py").write_text(source[:TEXT_BYTES], encoding="ascii")
