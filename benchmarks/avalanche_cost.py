"""What Avalanche's elastic weight consolidation costs: a step after 1 and 20 tasks, and its pass for importances.

`python benchmarks/avalanche_cost.py`, in the environment that `avalanche_digits.py` tells how to make.

The other side of `penalty_cost.py` and `fisher_cost.py`: the same MLPs, batches, optimizer and measure, on one
thread. Variants take turns in random order; shown are median ratios of CPU time to the plain step, or to the
plain epoch. Both epochs get their batches from the same kind of DataLoader.
"""

from __future__ import annotations

import argparse
import random
import statistics
import time
from types import SimpleNamespace
from typing import Any

import torch
from avalanche_digits import EWCPlugin, copy_params_dict  # which declares what torchvision lacks
from continual_data import mlp
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, TensorDataset

LR, STRENGTH = 1e-3, 100.0


def after(model: nn.Module, tasks: int) -> tuple[EWCPlugin, Any]:
    """The plugin with random importances of so many tasks, and what it sees of a strategy."""
    plugin = EWCPlugin(STRENGTH)
    for task in range(tasks):
        plugin.saved_params[task], plugin.importances[task] = copy_params_dict(model), copy_params_dict(model)
        for kept in plugin.importances[task].values():
            kept.data = torch.rand_like(kept.data)
    clock = SimpleNamespace(train_exp_counter=tasks)
    return plugin, SimpleNamespace(clock=clock, model=model, device=torch.device("cpu"), loss=None)


def step(model: nn.Module, optimizer: Any, batch: tuple[Tensor, Tensor], penalty: Any) -> None:
    """One, with the plugin's penalty in the loss, if there is one."""
    optimizer.zero_grad()
    loss = F.cross_entropy(model(batch[0]), batch[1])
    if penalty is not None:
        plugin, strategy = penalty
        strategy.loss = loss
        plugin.before_backward(strategy)
    loss.backward()
    optimizer.step()


def of_steps(sizes: list[int], samples: int, rounds: int) -> dict[str, float]:
    """Median ratios to the plain step."""
    model = mlp(*sizes)
    optimizer = torch.optim.AdamW(model.parameters(), LR, fused=True)
    batch = torch.randn(samples, sizes[0]), torch.randint(0, 10, (samples,))
    variants = {"plain": None, **{f"{tasks} tasks": after(model, tasks) for tasks in (1, 4, 20)}}
    spent: dict[str, list[float]] = {name: [] for name in variants}
    for _ in range(rounds):
        for name in random.sample([*variants], len(variants)):
            start = time.thread_time()
            step(model, optimizer, batch, variants[name])
            spent[name].append(time.thread_time() - start)
    return {
        name: statistics.median(one / plain for one, plain in zip(found, spent["plain"], strict=True))
        for name, found in spent.items()
    }


def of_passes(sizes: list[int], batch: int, rounds: int, number: int = 4096) -> dict[str, float]:
    """Median ratios of the pass for importances to a plain epoch: as it ships, and of single samples."""
    model = mlp(*sizes)
    optimizer = torch.optim.AdamW(model.parameters(), LR, fused=True)
    data = TensorDataset(torch.randn(number, sizes[0]), torch.randint(0, 10, (number,)), torch.zeros(number))
    plugin, criterion, cpu = EWCPlugin(STRENGTH), nn.CrossEntropyLoss(), torch.device("cpu")

    def epoch() -> None:
        for x, y, _ in DataLoader(data, batch_size=batch):
            step(model, optimizer, (x, y), None)

    turns = {
        "plain": epoch,
        "as it ships": lambda: plugin.compute_importances(model, criterion, optimizer, data, cpu, batch),
        "single samples": lambda: plugin.compute_importances(model, criterion, optimizer, data, cpu, 1),
    }
    spent: dict[str, list[float]] = {name: [] for name in turns}
    for _ in range(rounds):
        for name in random.sample([*turns], len(turns)):
            start = time.thread_time()
            turns[name]()
            spent[name].append(time.thread_time() - start)
    return {
        name: statistics.median(one / plain for one, plain in zip(found, spent["plain"], strict=True))
        for name, found in spent.items()
    }


def main() -> None:
    """Print two tables."""
    parser = argparse.ArgumentParser(description="Cost of Avalanche's elastic weight consolidation.")
    parser.add_argument("--rounds", type=int, default=200)
    parser.add_argument("--epochs", type=int, default=7)
    parser.add_argument("--sizes", type=int, nargs="*", default=[784, 256, 256, 10], help="of the network's layers")
    options = parser.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    for title, batches, measured, rounds in (
        ("step, batch", (16, 64, 128, 256), of_steps, options.rounds),
        ("pass, batch", (16, 32, 64, 128), of_passes, options.epochs),
    ):
        columns = [measured(options.sizes, batch, rounds) for batch in batches]
        print(f"{title:20}" + "".join(f"{batch:8}" for batch in batches))
        for name in columns[0]:
            print(f"{name:20}" + "".join(f"{column[name]:8.2f}" for column in columns), flush=True)


if __name__ == "__main__":
    main()
