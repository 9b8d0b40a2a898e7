"""What a training step costs beyond plain PyTorch, in CPU time of its thread, and whether every hook is still called.

`python benchmarks/step_overhead.py --size small --steps 600`

All variants run as threads of one process and take turns every two steps in random order; each block of steps is timed
by its own thread's CPU clock. Over windows of 20 steps (which hold the periodic logging) the ratio to the plain loop is
taken; shown are the median and its 95 % interval (bootstrap over windows). Checkpoints and validations are left out.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import logging
import os
import sys
import time
import types
import warnings
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from baton import Baton
from hook_counts import count_hooks
from overhead_job import Job
from overhead_variants import VARIANTS

from trustformers_pl.tracking import display, progress

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

SIZES: dict[str, tuple[dict[str, int], int]] = {
    "small": ({"d_model": 64, "n_layers": 2, "n_heads": 2, "context_length": 64}, 4),
    "medium": ({"d_model": 192, "n_layers": 6, "n_heads": 6, "context_length": 64}, 4),
}
WINDOW, WARM = 20, 20  # steps


class Terminal(io.StringIO):
    """Takes what a terminal would show, and forgets it."""

    def isatty(self) -> bool:
        """It says it is one, so that the bars are drawn."""
        return True

    def write(self, text: str) -> int:
        """Forget it."""
        return len(text)


def windows(seconds: list[float], block: int) -> np.ndarray[Any, Any]:
    """CPU seconds of whole windows of steps, the first ones left out."""
    blocks = np.array(seconds[WARM // block :])
    per_window = WINDOW // block
    return blocks[: len(blocks) // per_window * per_window].reshape(-1, per_window).sum(1)


def interval(ratios: np.ndarray[Any, Any]) -> tuple[float, float]:
    """95 % of the median, by 2,000 resamples of the windows."""
    drawn = np.random.default_rng(0).choice(ratios, (2000, len(ratios)))
    low, high = np.quantile(np.median(drawn, axis=1), [0.025, 0.975])
    return float(low), float(high)


def measure(size: str, steps: int, variants: Mapping[str, Callable[[Job], Any]]) -> None:
    """Run the variants in turns and print the table, relative to the first of them."""
    model, batch = SIZES[size]
    baton = Baton()
    job = Job(model, batch, steps, baton)
    shown, sys.stdout = sys.stdout, Terminal()
    try:
        seconds = baton.run({name: (lambda train=train: train(job)) for name, train in variants.items()})  # type: ignore[misc]
    finally:
        sys.stdout = shown
    table(size, job, {name: windows(found, baton.block) for name, found in seconds.items()})


def table(size: str, job: Job, found: dict[str, np.ndarray[Any, Any]]) -> None:
    """Print one row a variant."""
    parameters = sum(p.numel() for p in job.built().parameters())
    reference = next(iter(found.values()))
    load = "/".join(f"{value:.1f}" for value in os.getloadavg())
    print(f"{size}: {parameters / 1e6:.2f} M parameters, {job.steps} steps, {len(reference)} windows, load {load}")
    print(f"{'variant':24} {'ms/step':>8} {'ratio':>7} {'95 %':>15}")
    for name, one in found.items():
        ratios = one / reference
        low, high = interval(ratios)
        milliseconds = 1000 * np.median(one) / WINDOW
        print(f"{name:24} {milliseconds:8.3f} {np.median(ratios):7.3f} {f'{low:.3f}-{high:.3f}':>15}")


def prepare() -> None:
    """One thread, no chatter, and bars that are drawn by the time of their own run."""
    torch.set_num_threads(1)
    os.environ["TERM"] = "xterm"
    warnings.simplefilter("ignore")
    logging.getLogger("lightning").setLevel(logging.ERROR)
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    # Runs that take turns share the wall clock, so a bar drawn ten times a second would be drawn more often per step.
    own_clock: Any = types.SimpleNamespace(monotonic=time.thread_time, perf_counter=time.thread_time)
    display.time = progress.time = own_clock  # type: ignore[attr-defined]


def main() -> None:
    """Read the arguments, run, print."""
    parser = argparse.ArgumentParser(description="CPU time of a step against plain PyTorch.")
    parser.add_argument("--size", choices=[*SIZES, "both"], default="both")
    parser.add_argument("--steps", type=int, default=600)
    parser.add_argument("--only", nargs="*", choices=list(VARIANTS), help="variants beside the plain loop")
    arguments = parser.parse_args()
    names = ["plain torch", *(arguments.only or [name for name in VARIANTS if name != "plain torch"])]
    prepare()
    with contextlib.redirect_stdout(Terminal()):
        counts = count_hooks()
    print(counts)
    for size in SIZES if arguments.size == "both" else [arguments.size]:
        measure(size, arguments.steps, {name: VARIANTS[name] for name in names})


if __name__ == "__main__":
    main()
