"""Kill the main job with SIGKILL at random moments, start it again, and compare its end with an uninterrupted run's.

    python benchmarks/crash_trials.py --trials 10
    python benchmarks/crash_trials.py --case ranks4 --trials 3
    python benchmarks/crash_trials.py --case all --trials 3

Compared bit for bit: every file of the last checkpoint (weights, optimizer, schedule, loop counters, random number
generators), every logged value except measured times, and every generated sample. Exit code 1 if any trial differs.
"""

from __future__ import annotations

import argparse
import contextlib
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
NOISY = ("--data.class_path=crash_data.NoisyText", "--model.init_args.dropout=0.2")
# Further overrides, by the name of the case; all of them have dropout, clipping and a cosine schedule.
CASES: dict[str, tuple[str, ...]] = {
    "plain": (),
    "accumulate": (*NOISY, "--accumulate.batches=4", "--checkpoint.every_n_steps=3", "--trainer.max_steps=120"),
    "workers": (*NOISY, "--data.init_args.num_workers=2"),
    "noise": NOISY,
    "fp16": ("--precision.dtype=fp16", "--precision.opt_level=O2", "--trainer.max_steps=150"),
    "ema": ("--ema.decay=0.9",),
    "best": ("--checkpoint.best.monitor=val_loss", "--checkpoint.best.keep=2", "--checkpoint.keep_last=1"),
    "waits": ("--checkpoint.background=false",),
    "ranks2": ("--trainer.devices=2", "--ddp.bucket_size_mb=25", "--trainer.max_steps=120"),
    "ranks4": ("--trainer.devices=4", "--ddp.bucket_size_mb=25", "--trainer.max_steps=60"),
}
# Where a trial is killed: `moment` is any, at random; the others are found by `crash_data`, `saving` from outside.
PLACES = {"accumulate": ("moment", "saving", "accumulation", "epoch", "validation")}
PLACES |= dict.fromkeys(("noise", "workers"), ("moment", "saving", "epoch", "validation"))
MEASURED = ("tokens_per_second",)


def command(folder: Path, text: Path, extra: list[str]) -> list[str]:
    """The command line of the job."""
    paths = [f"--trainer.default_root_dir={folder}", f"--data.init_args.folder={text}"]
    classes = [override for override in extra if "class_path" in override]  # another class takes none of the arguments
    rest = [override for override in extra if override not in classes]
    return [sys.executable, "-m", "trustformers_pl.cli", "fit", str(RECIPE), *classes, *SMALL, *paths, *rest]


def start(folder: Path, text: Path, extra: list[str], crash_at: str = "") -> subprocess.Popen[bytes]:
    """The job as a process of its own, on one thread so that sums are in one order."""
    paths = os.pathsep.join([str(Path(__file__).parent), os.environ.get("PYTHONPATH", "")])
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": paths, "CRASH_AT": crash_at}
    return subprocess.Popen(
        command(folder, text, extra),
        env=environment,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        start_new_session=True,  # so that all its ranks and workers can be killed at once
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


def kill_at(folder: Path, text: Path, extra: list[str], place: str, moments: random.Random, seconds: float) -> str:
    """Start the job and kill it at a place; says which, and whether it was still running then."""
    begun = time.time()
    number = moments.randint(1, 3)
    inside = place not in ("moment", "saving")
    process = start(folder, text, extra, f"{place}:{number}" if inside else "")
    until_training(process, folder, begun)
    delay = moments.uniform(0, seconds)
    if inside:
        process.wait()
        running = process.returncode != 0
    else:
        time.sleep(delay)
        if place == "saving":
            until_saving(process, folder)
        running = process.poll() is None
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.communicate()
    where = f"{place} {number}" if inside else f"{place} after {delay:.1f} s"
    return where if running else f"{where} (had ended)"


def until_saving(process: subprocess.Popen[bytes], folder: Path) -> None:
    """Wait until a checkpoint is being written."""
    while process.poll() is None and not any((folder / "checkpoints").glob(".step-*.tmp-*")):
        time.sleep(0.0005)


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
    parser.add_argument("--case", choices=[*CASES, "all"], default="plain")
    parser.add_argument("--seed", type=int, default=None, help="of the moments of the kills; random if not given")
    parser.add_argument("extra", nargs="*", help="further overrides of the recipe, after --")
    options = parser.parse_args()
    seed = random.SystemRandom().randrange(2**32) if options.seed is None else options.seed
    cases = list(CASES) if options.case == "all" else [options.case]
    equal = sum(run_case(name, options.trials, [*CASES[name], *options.extra], seed) for name in cases)
    trials = options.trials * len(cases)
    print(f"{equal} of {trials} trials ended with the bits of the uninterrupted run")
    return 0 if equal == trials else 1


def run_case(name: str, trials: int, extra: list[str], seed: int) -> int:
    """One uninterrupted run, and trials to compare with it; returns how many were equal."""
    moments = random.Random(f"{name} {seed}")
    with tempfile.TemporaryDirectory() as temporary:
        root = Path(temporary)
        text = make_text(root)
        whole = start(root / "whole", text, extra)
        until_training(whole, root / "whole")
        begun = time.monotonic()
        finish(whole)
        expected = fingerprint(root / "whole")
        seconds = time.monotonic() - begun
        print(f"{name}: {seconds:.1f} s of training uninterrupted; seed of the moments: {seed}", flush=True)
        places = PLACES.get(name, ("moment", "saving"))
        return sum(
            trial(root / f"trial{number}", text, extra, places[number % len(places)], moments, expected, seconds)
            for number in range(trials)
        )


def trial(
    folder: Path,
    text: Path,
    extra: list[str],
    place: str,
    moments: random.Random,
    expected: dict[str, str],
    seconds: float,
) -> bool:
    """Kill once, or sometimes again at a random moment; resume; compare."""
    places = [place, *moments.choice([[], [], ["moment"]])]
    killed = [kill_at(folder, text, extra, each, moments, seconds) for each in places]
    resumed_from = max((path.name for path in (folder / "checkpoints").glob("step-*")), default="the start")
    finish(start(folder, text, extra))
    found = fingerprint(folder)
    different = [name for name in expected if found.get(name) != expected[name]]
    told = f"{folder.name}: killed at {', '.join(killed)}, resumed from {resumed_from}"
    print(f"{told}: {different or 'identical'}", flush=True)
    return not different


if __name__ == "__main__":
    sys.exit(main())
