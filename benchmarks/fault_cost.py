"""What the features that watch for faults cost a run in which none comes, in CPU time of its thread.

`python benchmarks/fault_cost.py --size small --steps 600`

The main job's recipe with and without each of them, by the method of `step_overhead.py`. Signals and emergency saves
come with the section `checkpoint`, which all of them have.
"""

from __future__ import annotations

import argparse
from functools import partial

from overhead_variants import recipe
from step_overhead import SIZES, measure, prepare

SECTIONS = {
    "finite: skip": {"finite": {"policy": "skip"}},
    "spikes": {"spikes": {}},
    "quarantine": {"quarantine": {}},
    "out_of_memory": {"out_of_memory": {}},
}


def main() -> None:
    """Read the arguments, run, print."""
    parser = argparse.ArgumentParser(description="CPU time of a step with features that watch for faults.")
    parser.add_argument("--size", choices=[*SIZES], default="small")
    parser.add_argument("--steps", type=int, default=600)
    arguments = parser.parse_args()
    prepare()
    variants = {name: partial(recipe, name=name, **sections) for name, sections in SECTIONS.items()}
    measure(arguments.size, arguments.steps, {"without": partial(recipe, name="without"), **variants})


if __name__ == "__main__":
    main()
