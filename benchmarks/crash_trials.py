"""Kill the main job with SIGKILL at random moments, start it again, and compare its end with an uninterrupted run's.

    python benchmarks/crash_trials.py --trials 10

Compared bit for bit: every file of the last checkpoint (weights, optimizer, schedule, loop counters, random number
generators), every logged value except measured times, and every generated sample. Exit code 1 if any trial differs.
"""

from __future__ import annotations

import argparse
import csv
import hashlib
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

RECIPE = Path(__file__).parent.parent / "examples" / "lm" / "lm.yaml"
# The main job made small: several epochs, validations and checkpoints, none of them at the same steps.
SMALL = (
    "--model.init_args.d_model=32",
    "--model.init_args.n_layers=2",
    "--model.init_args.dropout=0.1",
    "--model.init_args.context_length=32",
    "--data.init_args.context_length=32",
    "--data.init_args.batch_size=8",
    "--trainer.max_steps=400",
    "--trainer.val_check_interval=70",
    "--trainer.limit_val_batches=4",
    "--trainer.log_every_n_steps=5",
    "--checkpoint.every_n_steps=9",
    "--samples.max_new_tokens=8",
)
MEASURED = ("tokens_per_second",)


def command(folder: Path, text: Path, extra: list[str]) -> list[str]:
    """The command line of the job."""
    paths = [f"--trainer.default_root_dir={folder}", f"--data.init_args.folder={text}"]
    return [sys.executable, "-m", "trustformers_pl.cli", "fit", str(RECIPE), *SMALL, *paths, *extra]


def start(folder: Path, text: Path, extra: list[str]) -> subprocess.Popen[bytes]:
    """The job as a process of its own, on one thread so that sums are in one order."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    return subprocess.Popen(
        command(folder, text, extra), env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE
    )


def finish(process: subprocess.Popen[bytes]) -> None:
    """Wait for the end; an error of the job is ours too."""
    _, errors = process.communicate()
    if process.returncode:
        raise SystemExit(f"the job ended with {process.returncode}:\n{errors.decode()}")


def fingerprint(folder: Path) -> dict[str, str]:
    """What must be equal at the end of a run, by name."""
    last = sorted((folder / "checkpoints").iterdir())[-1]
    prints = {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in last.iterdir()}
    prints["last checkpoint"] = last.name
    with (folder / "metrics.csv").open(newline="") as file:
        rows = [{k: v for k, v in row.items() if k not in MEASURED} for row in csv.DictReader(file)]
    prints["metrics.csv"] = repr(rows)
    prints["samples.jsonl"] = (folder / "samples.jsonl").read_text()
    return prints


def until_training(process: subprocess.Popen[bytes], folder: Path, before: float = 0.0) -> None:
    """Wait until the job, having imported everything, writes its recipe into the run folder."""
    record = folder / "recipe.yaml"
    while process.poll() is None and not (record.exists() and record.stat().st_mtime > before):
        time.sleep(0.02)


def kill_at(folder: Path, text: Path, extra: list[str], delay: float) -> bool:
    """Start the job and kill it after `delay` seconds of training; whether it was still running then."""
    begun = time.time()
    process = start(folder, text, extra)
    until_training(process, folder, begun)
    time.sleep(delay)
    running = process.poll() is None
    if running:
        process.send_signal(signal.SIGKILL)
    process.communicate()
    return running


def make_text(folder: Path) -> Path:
    """A few hundred kilobytes of this machine's own Python sources: some epochs of the small job."""
    text = folder / "text"
    text.mkdir()
    for name in ("argparse.py", "ast.py"):
        source = Path(os.__file__).parent / name
        (text / name).write_text(source.read_text(encoding="utf-8")[:24_000], encoding="utf-8")
    return text


def main() -> int:
    """Run the trials and print a line for each."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--trials", type=int, default=10)
    parser.add_argument("--seed", type=int, default=None, help="of the moments of the kills; random if not given")
    parser.add_argument("extra", nargs="*", help="further overrides of the recipe, after --")
    options = parser.parse_args()
    seed = random.SystemRandom().randrange(2**32) if options.seed is None else options.seed
    moments = random.Random(seed)
    with tempfile.TemporaryDirectory() as temporary:
        root = Path(temporary)
        text = make_text(root)
        whole = start(root / "whole", text, options.extra)
        until_training(whole, root / "whole")
        begun = time.monotonic()
        finish(whole)
        expected = fingerprint(root / "whole")
        seconds = time.monotonic() - begun
        print(f"uninterrupted: {seconds:.1f} s of training; seed of the moments: {seed}", flush=True)
        equal = sum(
            trial(root, number, text, options.extra, moments, expected, seconds) for number in range(options.trials)
        )
    print(f"{equal} of {options.trials} trials ended with the bits of the uninterrupted run")
    return 0 if equal == options.trials else 1


def trial(
    root: Path,
    number: int,
    text: Path,
    extra: list[str],
    moments: random.Random,
    expected: dict[str, str],
    seconds: float,
) -> bool:
    """Kill once, or sometimes twice; resume; compare."""
    folder = root / f"trial{number}"
    delays = [moments.uniform(0, seconds) for _ in range(moments.choice([1, 1, 2]))]
    hit = [kill_at(folder, text, extra, delay) for delay in delays]
    resumed_from = max((path.name for path in (folder / "checkpoints").glob("step-*")), default="the start")
    finish(start(folder, text, extra))
    found = fingerprint(folder)
    different = [name for name in expected if found.get(name) != expected[name]]
    shown = ", ".join(
        f"{delay:.1f} s{'' if was_running else ' (had ended)'}" for delay, was_running in zip(delays, hit, strict=True)
    )
    print(f"trial {number}: killed after {shown}, resumed from {resumed_from}: {different or 'identical'}", flush=True)
    return not different


if __name__ == "__main__":
    sys.exit(main())
