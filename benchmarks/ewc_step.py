"""What the quadratic penalty adds to a training step, after 1 and after 20 tasks.

`python benchmarks/ewc_step.py`

The MLP of `fisher_cost.py` with a fused AdamW on one thread. All variants take turns in random order; shown are the
median ratios of CPU time to the plain step. `implicit, new lr` is with a learning rate that changes at every step.
"""

from __future__ import annotations

import argparse
import random
import time
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from fisher_cost import MLP, mean_loss

from trustformers_pl.continual.implicit import ImplicitPenalty
from trustformers_pl.continual.quadratic import Quadratic, add_gradient_, merged

if TYPE_CHECKING:
    from collections.abc import Callable

    from torch import Tensor

LR, STRENGTH = 1e-3, 100.0


def quadratic(weights: list[Tensor], tasks: int) -> Quadratic:
    """Of random importances."""
    each = [Quadratic.at([w + torch.randn_like(w) for w in weights], [torch.rand_like(w) for w in weights])]
    for _ in range(tasks - 1):
        each = [merged(each[0], Quadratic.at(weights, [torch.rand_like(w) for w in weights]))]
    return each[0]


def penalties(weights: list[Tensor], tasks: int) -> dict[str, Callable[[list[Tensor]], None]]:
    """What is done with the gradients."""
    whole = quadratic(weights, tasks)
    kept, changing = ImplicitPenalty(whole, STRENGTH), ImplicitPenalty(whole, STRENGTH)
    return {
        f"explicit, {tasks} tasks": lambda g: add_gradient_(g, weights, whole, STRENGTH),
        f"implicit, {tasks} tasks": lambda g: kept.add_(g, weights, LR),
        f"implicit, new lr, {tasks} tasks": lambda g: changing.add_(g, weights, LR * random.random()),
    }


def measured(samples: int, rounds: int) -> dict[str, float]:
    """Median ratios by variant."""
    model = MLP()
    weights: list[Any] = list(model.parameters())
    optimizer = torch.optim.AdamW(weights, LR, fused=True)
    batch = {"x": torch.randn(samples, 784), "labels": torch.randint(0, 10, (samples,))}
    variants: dict[str, Any] = {"plain": lambda _: None, **penalties(weights, 1), **penalties(weights, 20)}
    spent: dict[str, list[float]] = {name: [] for name in variants}
    for _ in range(rounds):
        for name in random.sample([*variants], len(variants)):
            start = time.thread_time()
            optimizer.zero_grad()
            mean_loss(model(batch), batch).backward()
            variants[name]([weight.grad for weight in weights])
            optimizer.step()
            spent[name].append(time.thread_time() - start)
    plain = np.array(spent["plain"])
    return {name: float(np.median(np.array(found) / plain)) for name, found in spent.items()}


def main() -> None:
    """Print one row a variant."""
    parser = argparse.ArgumentParser(description="Cost of a step with the quadratic penalty.")
    parser.add_argument("--rounds", type=int, default=400)
    rounds = parser.parse_args().rounds
    torch.set_num_threads(1)
    torch.manual_seed(0)
    sizes = (16, 64, 128, 256)
    columns = [measured(samples, rounds) for samples in sizes]
    print(f"{'batch':30}" + "".join(f"{samples:8}" for samples in sizes))
    for name in columns[0]:
        print(f"{name:30}" + "".join(f"{column[name]:8.2f}" for column in columns))


if __name__ == "__main__":
    main()
