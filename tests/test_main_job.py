"""The main job, killed at random moments; and the recipe that it is."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent


def crash_trials(number: int, case: str = "plain") -> str:
    done = subprocess.run(
        [sys.executable, str(ROOT / "benchmarks" / "crash_trials.py"), f"--trials={number}", f"--case={case}"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_killed_at_random_moments_it_ends_with_the_same_bits() -> None:
    assert "2 of 2 trials ended with the bits of the uninterrupted run" in crash_trials(2)


@pytest.mark.slow
def test_killed_ten_times_it_ends_with_the_same_bits_ten_times() -> None:
    assert "10 of 10 trials ended with the bits of the uninterrupted run" in crash_trials(10)


@pytest.mark.slow
@pytest.mark.parametrize("case", ["accumulate", "workers", "fp16", "ema", "best", "ranks2"])
def test_each_kind_of_run_killed_twice_ends_with_the_same_bits(case: str) -> None:
    """Twelve trials: at random moments, while saving, amid accumulation, validation and at ends of epochs."""
    assert "2 of 2 trials ended with the bits of the uninterrupted run" in crash_trials(2, case)
