"""The kinds of runs that `crash_trials.py` kills."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping

MOMENTS = ("moment", "saving", "rename", "epoch", "validation")
ACCUMULATES = ("--accumulate={batches: 4}", "--checkpoint.every_n_steps=3", "--trainer.max_steps=30")
NOISE, WORKERS = "--data.init_args.noise=0.05", "--data.init_args.num_workers=2"
FP16 = "--precision={dtype: fp16, opt_level: O2, initial_scale: 1048576, growth_interval: 20}"
EMA = "--ema={decay: 0.9}"
TASKS = 3, 2
BOUNDARIES = ("task_end", "task_pass", "task_saved")
EWC = "--ewc={strength: 1000, samples: 20, batch_size: 4}"
MEMORY = "capacity: 20, batch: 4"
BEST = ("--checkpoint.best={monitor: val_loss, keep: 2}", "--checkpoint.keep_last=1")


@dataclass(frozen=True)
class Case:
    """A kind of run.

    Attributes:
        overrides: Of `crash_job.yaml`, which has dropout, clipping and a cosine schedule in all of them.
        ranks: Gloo ranks.
        places: Where its processes are killed first.
        environment: Variables.
        tasks: How many, and the epochs of each.
    """

    overrides: tuple[str, ...] = ()
    ranks: int = 1
    places: tuple[str, ...] = MOMENTS
    environment: Mapping[str, str] = field(default_factory=dict)
    tasks: tuple[int, int] = (1, 1)


def in_tasks(*overrides: str, every: int = 9, ranks: int = 1) -> Case:
    """Three tasks of 18 steps, or of 10 on two ranks, and two checkpoints a task, the second at its boundary."""
    sections = (f"--tasks={{scenario: domain, number: {TASKS[0]}, epochs: {TASKS[1]}, batch_size: 8}}", *overrides)
    steps = f"--checkpoint.every_n_steps={every}"
    return Case((*sections, steps), ranks, ("moment", "saving", *BOUNDARIES), tasks=TASKS)


CASES = {
    "plain": Case(),
    "accumulate": Case(ACCUMULATES, places=(*MOMENTS, "accumulation")),
    "workers": Case((NOISE, WORKERS)),
    "noise": Case((NOISE,)),
    "stream": Case((NOISE, WORKERS, "--data.init_args.stream=true")),
    "fp16-O1": Case((FP16.replace("O2", "O1"),)),
    "fp16-O2": Case((FP16,)),
    "ema": Case((EMA,)),
    "best": Case(BEST),
    "waits": Case(("--checkpoint.background=false",)),
    "stock-loop": Case((NOISE,), environment={"TFPL_LOOP": "stock"}),
    "together": Case((*ACCUMULATES, NOISE, WORKERS, FP16, EMA, *BEST), places=(*MOMENTS, "accumulation")),
    "ranks2": Case(("--ddp={}", NOISE, "--trainer.max_steps=50"), ranks=2),
    "zero1": Case(("--zero={stage: 1}", EMA, *ACCUMULATES), ranks=2, places=(*MOMENTS, "accumulation")),
    "zero2": Case(("--zero={stage: 2}", NOISE, FP16, *ACCUMULATES), ranks=2, places=(*MOMENTS, "accumulation")),
    "zero3": Case(("--zero={stage: 3}", NOISE, EMA, "--trainer.max_steps=50"), ranks=2),
    "ranks4": Case(("--ddp={}", NOISE, "--trainer.max_steps=30", "--checkpoint.every_n_steps=4"), ranks=4),
    "tasks-ewc": in_tasks(EWC, EMA),
    "tasks-replay": in_tasks(f"--replay={{{MEMORY}, where: disk}}", NOISE, *ACCUMULATES[:1], every=3),
    "tasks-der": in_tasks(f"--der={{{MEMORY}, beta: 0.5}}", FP16),
    "tasks-lwf": in_tasks("--lwf={}", "--si={}", NOISE),
    "tasks-progressive": in_tasks("--progressive={column: blocks}", EMA, NOISE),
    "tasks-progressive2": in_tasks(
        "--progressive={column: blocks, lateral: adapter}", "--ddp={}", EWC, every=5, ranks=2
    ),
    "tasks-zero3": in_tasks("--zero={stage: 3}", EWC, "--mas={samples: 10}", every=5, ranks=2),
}
