"""How much faster two ranks are than one, on the same machine, with the same global batch.

`python benchmarks/parallel_scaling.py --blocks 10`

One process with the whole batch and one thread, and ranks that share it, one thread each, take turns as in
`parallel_cost.py`. Shown are the seconds on the clock of a step relative to one process: with two free cores, one half
would be all that there is. Cores that share caches and memory, and a machine with other work, give less.
"""

from __future__ import annotations

import argparse
import tempfile
from typing import Any

import numpy as np
from parallel_cost import Job, ours
from rank_baton import take_turns
from step_overhead import interval

MODES: dict[str, dict[str, Any]] = {
    "ddp": {"ddp": {}},
    "zero 1": {"zero": {"stage": 1}},
    "zero 2": {"zero": {"stage": 2}},
    "zero 3": {"zero": {"stage": 3}},
}


def main() -> None:
    """Read the arguments, run, print."""
    parser = argparse.ArgumentParser(description="Seconds of a step on several ranks, relative to one process.")
    parser.add_argument("--ranks", type=int, default=2)
    parser.add_argument("--width", type=int, default=384)
    parser.add_argument("--layers", type=int, default=6)
    parser.add_argument("--rows", type=int, default=8, help="windows of the global batch")
    parser.add_argument("--context", type=int, default=64)
    parser.add_argument("--block", type=int, default=2, help="steps of a turn")
    parser.add_argument("--blocks", type=int, default=10, help="turns that count")
    given = parser.parse_args()
    steps = given.block * (given.blocks + 3)

    def job(rows: int) -> Job:
        return Job(given.width, given.layers, given.context, rows, steps)

    variants: dict[str, Any] = {"one process": (1, ours, (job(given.rows), {}, tempfile.mkdtemp()))}
    for name, sections in MODES.items():
        variants[name] = given.ranks, ours, (job(given.rows // given.ranks), sections, tempfile.mkdtemp())
    found = take_turns(variants, given.block, given.blocks)
    one = np.array(found["one process"][1])
    print(f"one process: {np.median(one) / given.block:.2f} s a step of {given.rows} x {given.context} tokens")
    for name in MODES:
        ratios = np.array(found[name][1]) / one
        low, high = interval(ratios)
        print(f"{name:8} on {given.ranks} ranks: {np.median(ratios):.3f} ({low:.3f}-{high:.3f}) of its time")


if __name__ == "__main__":
    main()
