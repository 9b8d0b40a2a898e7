"""The cases of the memory table in `docs/features/zero.md`: `python tests/parallel/memory.py` prints it anew."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from lightning import Callback, Trainer
from torch.distributed._tools.mem_tracker import MemTracker
from torch.utils.data import DataLoader
from zero_job import LENGTH, MODES, VOCABULARY, Configured, dataset

from trustformers_pl.environment import cluster_environment
from trustformers_pl.loop import exact_loop
from trustformers_pl.models import GPT
from trustformers_pl.parallel import MeshStrategy
from trustformers_pl.precision import AMP
from trustformers_pl.testing import Ranks

# Bytes of a weight, of its gradient and of AdamW's two moments.
BYTES = {"fp32 O0": (4, 4, 8), "bf16 O1": (4, 4, 8), "bf16 O3": (2, 2, 4)}
CASES = [
    (mode, ranks, precision)
    for precision in BYTES
    for mode in ("ddp", "zero 1", "zero 2", "zero 3")
    for ranks in (2, 4)
    if precision != "bf16 O1" or ranks == 2
]


class Wide(Configured, GPT):
    """Large enough that a padded row, and the counter of a step, are nothing beside it."""

    def __init__(self) -> None:
        super().__init__(vocab_size=4 * VOCABULARY, d_model=64, n_layers=4, n_heads=2, context_length=LENGTH)


@dataclass(frozen=True)
class Held:
    """Bytes a parameter of the model.

    Attributes:
        weights: Of parameters, just before the optimizer's step.
        gradients: Likewise; those on shards are no parameter's, and torch's tracker calls them temporary.
        state: Likewise, of the optimizer.
        peak: Of all tensors but the data, at the fullest moment of forward and backward pass: with gathered layers and
            activations.
    """

    weights: float
    gradients: float
    state: float
    peak: float


class Tracked(Callback):
    """Asks torch's memory tracker in the second step, when the optimizer has its state."""

    def __init__(self) -> None:
        self.tracker: MemTracker | None = None
        self.held: dict[str, int] = {}
        self.peak = 0

    def on_train_batch_start(self, trainer: Trainer, pl_module: Any, batch: Any, batch_idx: int) -> None:
        if batch_idx == 1:
            self.tracker = MemTracker()
            self.tracker.track_external(pl_module, *trainer.optimizers)
            self.tracker.__enter__()

    def on_before_optimizer_step(self, trainer: Trainer, pl_module: Any, optimizer: Any) -> None:
        if self.tracker is not None:
            device = torch.device("cpu")
            now = self.tracker.get_tracker_snapshot("current")[device]
            self.held = {str(kind).rpartition(".")[2]: int(size) for kind, size in now.items()}
            self.peak = int(self.tracker.get_tracker_snapshot("peak")[device]["Total"])
            self.tracker.__exit__(None, None, None)
            self.tracker = None


def track(mode: str, ranks: int, precision: str) -> Held:
    """On one rank."""
    torch.set_num_threads(1)
    torch.manual_seed(0)
    module, tracked = Wide(), Tracked()
    parameters = sum(parameter.numel() for parameter in module.parameters())
    dtype, level = precision.split()
    trainer = Trainer(
        accelerator="cpu", devices=ranks, strategy=MeshStrategy(MODES[mode]()), max_steps=3, logger=False,
        enable_checkpointing=False, enable_progress_bar=False, enable_model_summary=False,
        use_distributed_sampler=False, callbacks=[tracked],
        plugins=[cluster_environment(), AMP(dtype, opt_level=level)],
    )  # fmt: skip
    exact_loop(trainer).fit(module, DataLoader(dataset(), batch_size=2))  # type: ignore[arg-type]
    held = tracked.held
    gradients = held["GRAD"] + held["TEMP"]
    assert held["ACT"] + held["OTH"] < 0.01 * gradients
    return Held(held["PARAM"] / parameters, gradients / parameters, held["OPT"] / parameters, tracked.peak / parameters)


def formula(mode: str, ranks: int, precision: str) -> tuple[float, float, float]:
    """Rajbhandari et al. 2020, figure 1: what a stage shares out is divided by the ranks."""
    stage = 0 if mode == "ddp" else int(mode[-1])
    weight, gradient, state = BYTES[precision]
    return (
        weight / ranks if stage == 3 else weight,
        gradient / ranks if stage >= 2 else gradient,
        state / ranks if stage >= 1 else state,
    )


def measured(mode: str, ranks: int, precision: str) -> Held:
    """The rank that has most."""
    of_ranks: list[Held] = Ranks().run(ranks, track, mode, ranks, precision)
    return max(of_ranks, key=lambda held: held.weights + held.gradients + held.state)


HEADER = "| mode | precision | ranks | weights | gradients | state | formula | at the peak |\n|---|---|---|---|---|---|---|---|"


def row(mode: str, ranks: int, precision: str, held: Held) -> str:
    """One row of the table, in bytes a parameter."""
    expected = " + ".join(f"{part:g}" for part in formula(mode, ranks, precision))
    return (
        f"| {mode} | {precision} | {ranks} | {held.weights:.2f} | {held.gradients:.2f} | {held.state:.2f} | {expected} | "
        f"{held.peak:.1f} |"
    )


if __name__ == "__main__":
    print(HEADER)
    for one in CASES:
        print(row(*one, measured(*one)), flush=True)
