"""What the penalty of elastic weight consolidation adds to a training step, after 1 and after 20 tasks.

`python benchmarks/penalty_cost.py`

Runs from recipes take turns of some steps in random order (see `rank_baton.py`); shown are the median ratios of CPU
time to the same run without `ewc`, and their 95 % intervals (bootstrap). The network is 784-256-256-10 with fused
AdamW, or another one by `--sizes`. `new lr` has a schedule, which changes the learning rate, and with it the penalty's
divisor, at each step.
"""

from __future__ import annotations

import argparse
import tempfile
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from continual_data import mlp
from fisher_cost import mean_loss
from lightning import Callback, LightningDataModule, LightningModule
from rank_baton import take_turns
from step_overhead import interval
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

if TYPE_CHECKING:
    from rank_baton import Turn

EWC = {"strength": 1e4, "samples": 64}
VARIANTS: dict[str, tuple[int, dict[str, Any]]] = {
    "naive": (1, {}),
    "ewc after 1 task": (1, {"ewc": EWC}),
    "ewc after 20 tasks": (20, {"ewc": EWC}),
    "naive, new lr": (1, {"schedule": {"name": "linear"}}),
    "ewc, new lr": (1, {"schedule": {"name": "linear"}, "ewc": EWC}),
}
PEERS = {name: "naive, new lr" if name.endswith("new lr") else "naive" for name in VARIANTS if "ewc" in name}


class Pixels(Dataset[Any]):
    """Noise with labels."""

    def __init__(self, count: int, width: int) -> None:
        generator = torch.Generator().manual_seed(0)
        self.x = torch.randn(count, width, generator=generator)
        self.labels = torch.randint(10, (count,), generator=generator)

    def __len__(self) -> int:
        """Samples."""
        return len(self.x)

    def __getitems__(self, indices: list[int]) -> dict[str, torch.Tensor]:
        """A batch."""
        return {"x": self.x[indices], "labels": self.labels[indices]}


class Data(LightningDataModule):
    """Batches of pixels (B, width)."""

    def __init__(self, batch: int, count: int, width: int) -> None:
        super().__init__()
        self.batch, self.pixels = batch, Pixels(count, width)

    def train_dataloader(self) -> Any:
        """Mixed."""
        return DataLoader(self.pixels, batch_size=self.batch, shuffle=True, collate_fn=lambda batch: batch)


class LastTask(Callback):
    """Takes turns in the last task."""

    def __init__(self, turn: Turn, last: int) -> None:
        self.turn, self.last = turn, last

    def on_train_batch_start(self, trainer: Any, *_: Any) -> None:
        """A step begins."""
        from trustformers_pl.continual.tasks import tasks_of

        if tasks_of(trainer, "LastTask").current == self.last:
            self.turn.fetched()


class Network(LightningModule):
    """Linear layers of some sizes, with ReLU between."""

    def __init__(self, sizes: list[int]) -> None:
        super().__init__()
        self.layers = mlp(*sizes)

    def forward(self, batch: Any) -> Tensor:
        """Logits (B, 10)."""
        return self.layers(batch["x"])  # type: ignore[no-any-return]

    def loss(self, outputs: Tensor, batch: Any) -> tuple[Tensor, Tensor]:
        """The sum, and the number of samples."""
        count = len(batch["labels"])
        return mean_loss(outputs, batch) * count, torch.tensor(count)


def run(turn: Turn, name: str, batch: int, sizes: list[int], steps: int, folder: str) -> None:
    """A recipe."""
    from trustformers_pl.assembly import Live
    from trustformers_pl.factory import assemble

    past, sections = VARIANTS[name]
    recipe: dict[str, Any] = {
        "version": 1,
        "trainer": {"accelerator": "cpu", "max_steps": (past + 1) * steps, "default_root_dir": folder},
        "tasks": {"scenario": "domain", "number": past + 1, "steps": steps},
        "optimizer": {"name": "adamw", "lr": 1e-3},
        **sections,
    }
    torch.manual_seed(0)
    made = assemble(recipe, live=Live(model=Network(sizes), data=Data(batch, 21 * 2 * batch, sizes[0])))
    made.trainer.callbacks.append(LastTask(turn, past))  # type: ignore[attr-defined]
    made.fit()


def main() -> None:
    """Print one row a variant."""
    parser = argparse.ArgumentParser(description="Cost of a step with the quadratic penalty.")
    parser.add_argument("--blocks", type=int, default=40, help="turns that count")
    parser.add_argument("--block", type=int, default=5, help="steps of a turn")
    parser.add_argument("--batches", type=int, nargs="*", default=[16, 64, 128, 256])
    parser.add_argument("--sizes", type=int, nargs="*", default=[784, 256, 256, 10], help="of the network's layers")
    given = parser.parse_args()
    steps = given.block * (given.blocks + 3)
    print(f"{'':20}" + "".join(f"{f'batch {batch}':>20}" for batch in given.batches))
    rows: dict[str, list[str]] = {name: [] for name in PEERS}
    for batch in given.batches:
        jobs: dict[str, Any] = {
            name: (1, run, (name, batch, given.sizes, steps, tempfile.mkdtemp())) for name in VARIANTS
        }
        found = take_turns(jobs, given.block, given.blocks)
        for name, peer in PEERS.items():
            ratios = np.array(found[name][0]) / np.array(found[peer][0])
            low, high = interval(ratios)
            rows[name].append(f"{np.median(ratios):.3f} ({low:.2f}-{high:.2f})")
    for name, cells in rows.items():
        print(f"{name:20}" + "".join(f"{cell:>20}" for cell in cells))


if __name__ == "__main__":
    main()
