"""The cases of the equality table in `docs/features/zero.md`: `python tests/parallel/equality.py` prints it anew."""

from __future__ import annotations

import itertools
from functools import cache

from zero_job import Case, by_torch, train

from trustformers_pl.testing import Ranks

SHARDED = ("zero 1", "zero 2", "zero 3")
# What the rounding of a type leaves after 20 steps, in the largest weight that differs; weights are of size 1.
BOUNDS = {
    "fp32 O0": 1e-5,
    "bf16 O1": 2e-2,
    "bf16 O2": 3e-2,
    "bf16 O3": 5e-2,
    "fp16 O1": 3e-3,
    "fp16 O2": 3e-3,
}
WHOLE = [
    *(
        Case(module, "AdamW", mode, ranks)
        for module, mode, ranks in itertools.product(("gpt", "encoder"), SHARDED, (2, 4))
    ),
    *(Case("gpt", "LAMB", mode, ranks) for mode, ranks in itertools.product(SHARDED, (2, 4))),
    *(Case("encoder", "LAMB", mode, 2) for mode in SHARDED),
    *(Case("gpt", optimizer, "ddp", ranks) for optimizer, ranks in itertools.product(("AdamW", "LAMB"), (2, 4))),
    *(Case("gpt", "AdamW", f"{mode} + copies", 4) for mode in ("zero 2", "zero 3")),
    *(Case("gpt", "Adafactor", mode, 2) for mode in SHARDED),
]
HALF = [Case("gpt", "AdamW", mode, 2, precision) for precision in list(BOUNDS)[1:] for mode in ("ddp", *SHARDED)]
HALF += [Case("gpt", "AdamW", mode, 4, precision) for precision in ("bf16 O2", "fp16 O1") for mode in SHARDED]
CASES = [*WHOLE, *HALF]
pool = Ranks()


@cache
def reference(module: str, optimizer: str, precision: str) -> tuple[float, ...]:
    """One process with the global batch: by torch alone in float32, by the same engine in other types."""
    if precision == "fp32 O0":
        return tuple(pool.run(1, by_torch, module, optimizer)[0])
    return tuple(pool.run(1, train, Case(module, optimizer, "one process", 1, precision))[0])


def difference(case: Case) -> float:
    """The largest difference of a weight from one process with the same global batch.

    Raises:
        AssertionError: The ranks do not agree on the weights.
    """
    expected = reference(case.module, case.optimizer, case.precision)
    of_ranks = pool.run(case.ranks, train, case)
    assert all(found == of_ranks[0] for found in of_ranks)
    return max(abs(one - other) for one, other in zip(of_ranks[0], expected, strict=True))


def label(case: Case) -> tuple[str, str, str, str, str]:
    """What a row of the table is known by."""
    return case.module, case.optimizer, case.mode, case.precision, str(case.ranks)


def row(case: Case, found: float) -> str:
    """One row of the table."""
    return "| " + " | ".join([*label(case), f"{found:.0e}", f"{BOUNDS[case.precision]:.0e}"]) + " |"


HEADER = "| module | optimizer | mode | precision | ranks | difference | held to |\n|---|---|---|---|---|---|---|"

if __name__ == "__main__":
    print(HEADER)
    for one in CASES:
        print(row(one, difference(one)), flush=True)
