"""Fashion-MNIST whose pixels stand in another order in every task: domains with the same classes."""

from __future__ import annotations

from typing import Any

import torch
from fashion import Fashion, Pictures
from torch.utils.data import ConcatDataset


class Permuted(Fashion):
    """As many sources as tasks, each with an order of the pixels of its own; the first one's is the usual one.

    Goodfellow et al. 2013, "An Empirical Investigation of Catastrophic Forgetting in Gradient-Based Neural Networks".

    Args:
        tasks: How many.
        samples: Training pictures of each task.
        test_samples: Held-out pictures of each task.
        **more: As for `Fashion`.
    """

    def __init__(self, tasks: int = 10, samples: int = 6000, test_samples: int = 2000, **more: Any) -> None:
        super().__init__(samples=samples, test_samples=test_samples, **more)
        self.tasks = tasks

    def dataset(self, part: str) -> Any:
        """One part a task."""
        x, labels = self.pictures(part)
        orders = [torch.randperm(784, generator=torch.Generator().manual_seed(task)) for task in range(self.tasks)]
        orders[0] = torch.arange(784)
        return ConcatDataset([Pictures(x[:, order], labels) for order in orders])
