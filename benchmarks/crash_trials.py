"""Kill small trainings with SIGKILL at random moments, start them again, and compare their ends with unkilled runs'.

    python benchmarks/crash_trials.py --trials 24
    python benchmarks/crash_trials.py --trials 10 --case ranks4 together
    python benchmarks/crash_trials.py --trials 12 --fresh

A trial is killed one to three times in a row: at any moment, while a checkpoint is written, before its rename, at an
epoch's end, between micro-batches, amid a validation, at a task's end, or right after a resume. Killed are real
processes that do what `trustformers-pl fit` does: forked from a server that has imported torch and Lightning; with
`--fresh`, interpreters of their own that the shell's command starts. A process that ends before it could be killed
makes no trial.

Compared bit for bit: every file of every checkpoint (weights, optimizer, schedule, loop counters, random number
generators), every logged value except measured times, every generated text, and every sample trained on: each exactly
once an epoch. Exit code 1 if any trial differs; its folder stays.
"""

from __future__ import annotations

import argparse
import os
import random
import shutil
import sys
import tempfile
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING

from crash_cases import CASES
from crash_trial import Result, Trials

if TYPE_CHECKING:
    from collections.abc import Iterable

COLUMNS = {
    "moment": "any moment",
    "saving": "while saving",
    "rename": "before the rename",
    "epoch": "epoch's end",
    "accumulation": "amid accumulation",
    "validation": "amid validation",
    "task_end": "task's end",
    "task_pass": "amid a task end's passes",
    "task_saved": "before a task end's rename",
    "resumed": "just resumed",
    "torn": "left a checkpoint unfinished",
}


def table(results: dict[str, Result]) -> str:
    """A row a case, in Markdown; kills by place, and how many of them left an unfinished checkpoint behind."""
    total = _sum(results.values())
    columns = {place: title for place, title in COLUMNS.items() if total.kills[place]}
    rows = [["case", "trials", *columns.values(), "identical"], ["---", *["---:"] * (len(columns) + 2)]]
    for name, result in {**results, "all": total}.items():
        numbers = [result.trials, *(result.kills[place] for place in columns), result.identical]
        rows.append([name, *(str(number) for number in numbers)])
    return "\n".join(f"| {' | '.join(row)} |" for row in rows)


def _sum(results: Iterable[Result]) -> Result:
    total = Result(kills=Counter())
    for result in results:
        total.trials += result.trials
        total.identical += result.identical
        total.redrawn += result.redrawn
        total.kills += result.kills
    return total


def main() -> int:
    """Run the trials, print a line for each, and the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--trials", type=int, default=24, help="of all cases together, dealt evenly (24)")
    parser.add_argument("--case", nargs="+", choices=[*CASES], default=[*CASES], help="all, if not given")
    parser.add_argument("--fresh", action="store_true", help="start interpreters by the shell's command; do not fork")
    parser.add_argument("--seed", type=int, default=None, help="of the moments of the kills; random if not given")
    parser.add_argument("--set", nargs="*", default=[], metavar="--section.key=value", help="overrides of the recipe")
    options = parser.parse_args()
    seed = random.SystemRandom().randrange(2**32) if options.seed is None else options.seed
    os.environ["OMP_NUM_THREADS"] = "1"  # the server's, before it starts
    os.environ["PYTHONPATH"] = os.pathsep.join([str(Path(__file__).parent), os.environ.get("PYTHONPATH", "")])
    root = Path(tempfile.mkdtemp(prefix="crash-trials-"))
    print(f"seed of the moments: {seed}", flush=True)
    results = {}
    for index, name in enumerate(options.case):
        number = options.trials // len(options.case) + (index < options.trials % len(options.case))
        results[name] = Trials(name, root, seed, fresh=options.fresh, extra=options.set).run(number)
    return _conclude(results, root)


def _conclude(results: dict[str, Result], root: Path) -> int:
    total = _sum(results.values())
    print(f"\n{table(results)}\n\n{total.redrawn} more had ended before they were killed, and were drawn again")
    print(f"{total.identical} of {total.trials} trials ended with the bits of the uninterrupted run")
    if total.identical < total.trials:
        print(f"what differs is in {root}")
        return 1
    shutil.rmtree(root)
    return 0


if __name__ == "__main__":
    sys.exit(main())
