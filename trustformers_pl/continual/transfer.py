"""What is learned, kept, lost and passed on over a sequence of tasks, from the matrix of accuracies.

The matrix R is (k, T) of real numbers: R[i, j] is the accuracy on the test data of task j after training on tasks 0 to
i. k of T tasks are learned so far; what was not measured is NaN, and an answer that needs it is NaN.

Sources: Lopez-Paz & Ranzato 2017, "Gradient Episodic Memory for Continual Learning", section 2; Chaudhry et al. 2018,
"Riemannian Walk for Incremental Learning", section 2.2. Their indices start at 1.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor


def average_accuracy(matrix: Tensor) -> float:
    """The mean over the tasks learned so far: 1/k sum_j R[k-1, j] (Lopez-Paz & Ranzato, equation 2).

    Args:
        matrix: (k, T), k at least 1.
    """
    return _mean(_square(matrix)[-1])


def forgetting(matrix: Tensor) -> float:
    """How much accuracy was lost since it was best, the mean over all tasks but the last (Chaudhry et al.).

    f_j = max_{l < k-1} R[l, j] - R[k-1, j], where l begins at the first task, not at task j, as in the paper; what was
    not measured is left out of the maximum. Negative where tasks got better.

    Args:
        matrix: (k, T).

    Returns:
        A number in [-1, 1]; NaN with fewer than two tasks.
    """
    square = _square(matrix)
    before, last = square[:-1, :-1], square[-1, :-1]
    best = before.masked_fill(before.isnan(), -math.inf).amax(0) if before.numel() else last
    return _mean(best - last)


def backward_transfer(matrix: Tensor) -> float:
    """What later tasks did to earlier ones: 1/(k-1) sum_{j < k-1} R[k-1, j] - R[j, j].

    Lopez-Paz & Ranzato, equation 3.

    Args:
        matrix: (k, T).

    Returns:
        A number in [-1, 1], negative where accuracy was lost; NaN with fewer than two tasks.
    """
    square = _square(matrix)
    return _mean((square[-1] - square.diagonal())[:-1])


def forward_transfer(matrix: Tensor, untrained: Tensor) -> float:
    """What earlier tasks did for those not seen yet: 1/(k-1) sum_{j > 0} R[j-1, j] - b[j] (the same, equation 4).

    Args:
        matrix: (k, T).
        untrained: b (T,), accuracies of the model before any training.

    Returns:
        A number in [-1, 1]; NaN with fewer than two tasks.
    """
    square = _square(matrix)
    return _mean(square.diagonal(1) - untrained.to(square)[1 : len(square)])


def _square(matrix: Tensor) -> Tensor:
    if matrix.dim() != 2 or not 0 < len(matrix) <= matrix.shape[1]:
        raise ValueError(f"accuracies must be (k, T) with 1 <= k <= T, not {tuple(matrix.shape)}")
    return matrix.double()[:, : len(matrix)]


def _mean(values: Tensor) -> float:
    return values.mean().item()
