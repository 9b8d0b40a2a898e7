"""What a step costs on several ranks, beside torch's own loops without Lightning.

`python benchmarks/parallel_cost.py --blocks 12`

Each variant is a job of its own processes, on gloo and one thread each. They take turns of some steps in random order,
so that only one runs at a time. For each turn the CPU time of all its ranks is taken, as a ratio to that of its peer in
the same round: `DistributedDataParallel`, the same with `ZeroRedundancyOptimizer`, and FSDP2 without and with
`reshard_after_forward`, each with fused AdamW and clipping. Shown are medians and their 95 % intervals (bootstrap).
"""

from __future__ import annotations

import argparse
import tempfile
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
import torch.distributed as dist
from overhead_variants import CLIP
from rank_baton import take_turns
from step_overhead import interval
from torch import nn
from torch.distributed.fsdp import fully_shard
from torch.distributed.optim import ZeroRedundancyOptimizer
from torch.nn.functional import cross_entropy
from torch.nn.parallel import DistributedDataParallel

from trustformers_pl.models import GPT

if TYPE_CHECKING:
    from rank_baton import Turn

LR, DECAY, VOCABULARY = 1e-3, 0.1, 256


@dataclass(frozen=True)
class Job:
    """What every variant trains: a GPT, on `rows` windows of random tokens a step and rank."""

    width: int
    layers: int
    context: int
    rows: int
    steps: int

    def built(self) -> GPT:
        """The model, the same at each call."""
        torch.manual_seed(0)
        return GPT(
            vocab_size=VOCABULARY, d_model=self.width, n_layers=self.layers, n_heads=4, context_length=self.context
        )

    def batch(self, rank: int, step: int) -> dict[str, torch.Tensor]:
        """`input_ids` and `labels` of one rank and step, (rows, T) int64 each."""
        generator = torch.Generator().manual_seed(1000 * step + rank)
        windows = torch.randint(VOCABULARY, (self.rows, self.context + 1), generator=generator)
        return {"input_ids": windows[:, :-1], "labels": windows[:, 1:]}


def groups(model: nn.Module) -> list[dict[str, Any]]:
    """Matrices decay, vectors do not."""
    parameters = list(model.parameters())
    return [
        {"params": [p for p in parameters if p.ndim > 1], "weight_decay": DECAY},
        {"params": [p for p in parameters if p.ndim < 2], "weight_decay": 0.0},
    ]


def torch_loop(turn: Turn, job: Job, kind: str) -> None:
    """A loop as torch's tutorials write it."""
    dist.init_process_group("gloo")
    gpt = job.built()
    model: nn.Module = gpt
    if kind.startswith("FSDP2"):
        keep = kind.endswith("kept")
        for block in gpt.blocks:
            fully_shard(block, reshard_after_forward=not keep)
        fully_shard(gpt)
    else:
        model = DistributedDataParallel(gpt)
    options: dict[str, Any] = {"lr": LR, "fused": True}
    if kind.endswith("ZeroRedundancyOptimizer"):
        optimizer: Any = ZeroRedundancyOptimizer(groups(gpt), torch.optim.AdamW, **options)  # type: ignore[arg-type]
    else:
        optimizer = torch.optim.AdamW(groups(gpt), **options)
    for step in range(job.steps):
        batch = job.batch(dist.get_rank(), step)
        turn.fetched()
        loss = cross_entropy(model(batch).flatten(0, 1), batch["labels"].flatten())
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(gpt.parameters(), CLIP)
        optimizer.step()


class Batches(torch.utils.data.Dataset[Any]):
    """A rank's batches in order; fetching one is where the turn may go on."""

    deterministic = True

    def __init__(self, job: Job, turn: Turn, rank: int) -> None:
        self.job, self.turn, self.rank = job, turn, rank

    def __len__(self) -> int:
        """Of the run."""
        return self.job.steps

    def __getitem__(self, step: int) -> Any:
        """One batch."""
        batch = self.job.batch(self.rank, step)
        self.turn.fetched()
        return batch


def ours(turn: Turn, job: Job, sections: dict[str, Any], folder: str) -> None:
    """A recipe."""
    import os

    from lightning import LightningDataModule
    from torch.utils.data import DataLoader

    from trustformers_pl.assembly import Live
    from trustformers_pl.factory import assemble

    class Data(LightningDataModule):
        def train_dataloader(self) -> Any:
            return DataLoader(Batches(job, turn, int(os.environ.get("RANK", 0))), batch_size=None)

    ranks = int(os.environ.get("WORLD_SIZE", 1))
    recipe: dict[str, Any] = {
        "version": 1,
        "trainer": {
            "max_steps": job.steps,
            "accelerator": "cpu",
            "devices": ranks,
            "default_root_dir": folder,
        },
        "optimizer": {"name": "adamw", "lr": LR, "weight_decay": DECAY},
        "clip": {"norm": CLIP},
        **sections,
    }
    assemble(recipe, live=Live(model=job.built(), data=Data())).fit()


PAIRS: dict[str, tuple[str, dict[str, Any]]] = {
    "ddp": ("DDP", {"ddp": {}}),
    "zero 1": ("DDP, ZeroRedundancyOptimizer", {"zero": {"stage": 1}}),
    "zero 2": ("FSDP2, kept", {"zero": {"stage": 2}}),
    "zero 3": ("FSDP2", {"zero": {"stage": 3}}),
}


def main() -> None:
    """Read the arguments, run, print."""
    parser = argparse.ArgumentParser(description="CPU time of a step on several ranks, beside torch's own loops.")
    parser.add_argument("--ranks", type=int, default=2)
    parser.add_argument("--width", type=int, default=384)
    parser.add_argument("--layers", type=int, default=6)
    parser.add_argument("--rows", type=int, default=2)
    parser.add_argument("--context", type=int, default=64)
    parser.add_argument("--block", type=int, default=3, help="steps of a turn")
    parser.add_argument("--blocks", type=int, default=12, help="turns that count")
    parser.add_argument("--only", nargs="*", choices=[*PAIRS], default=[*PAIRS])
    given = parser.parse_args()
    steps = given.block * (given.blocks + 3)
    job = Job(given.width, given.layers, given.context, given.rows, steps)
    variants: dict[str, Any] = {}
    for name in given.only:
        peer, sections = PAIRS[name]
        variants[peer] = given.ranks, torch_loop, (job, peer)
        variants[name] = given.ranks, ours, (job, sections, tempfile.mkdtemp())
    found = take_turns(variants, given.block, given.blocks)
    print(f"{sum(p.numel() for p in job.built().parameters()):,} parameters, {given.ranks} ranks, {given.blocks} turns")
    print(f"{'':8} {'peer':30} {'peer ms':>8} {'ms':>8} {'CPU ratio':>10} {'95 %':>13} {'clock ratio':>12}")
    for name in given.only:
        peer = PAIRS[name][0]
        ratios = np.array(found[name][0]) / np.array(found[peer][0])
        clock = np.median(np.array(found[name][1]) / np.array(found[peer][1]))
        low, high = interval(ratios)
        each = [1000 * np.median(found[one][0]) / given.block for one in (peer, name)]
        print(
            f"{name:8} {peer:30} {each[0]:8.1f} {each[1]:8.1f} {np.median(ratios):10.3f} {f'{low:.3f}-{high:.3f}':>13} "
            f"{clock:12.3f}"
        )


if __name__ == "__main__":
    main()
