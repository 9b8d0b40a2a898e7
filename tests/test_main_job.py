"""The main job made small, killed at random moments, in all its kinds."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent


def crash_trials(number: int, *options: str) -> str:
    """What the script says last of so many trials, each of which was killed at least once."""
    done = subprocess.run(
        [sys.executable, str(ROOT / "benchmarks" / "crash_trials.py"), f"--trials={number}", *options],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout.splitlines()[-1]


def test_killed_at_random_moments_it_ends_with_the_same_bits() -> None:
    """Two each: workers, noise, accumulation, fp16, clipping, cosine, EMA, the best kept, two ranks, shards, tasks."""
    cases = ["plain", "accumulate", "together", "ranks2", "zero2", "zero3", "tasks-ewc"]
    told = crash_trials(14, "--case", *cases)
    assert told == "14 of 14 trials ended with the bits of the uninterrupted run"


@pytest.mark.slow
def test_killed_in_two_hundred_trials_it_ends_with_the_same_bits_two_hundred_times() -> None:
    """All cases, four ranks among them."""
    assert crash_trials(200) == "200 of 200 trials ended with the bits of the uninterrupted run"


@pytest.mark.slow
def test_killed_interpreters_of_the_shells_command_end_with_the_same_bits() -> None:
    """Without the server that the other trials are forked from: starting Python, its imports, and Lightning's ranks."""
    told = crash_trials(6, "--fresh", "--case", "plain", "together", "ranks2")
    assert told == "6 of 6 trials ended with the bits of the uninterrupted run"
