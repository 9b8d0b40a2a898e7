"""The metrics of a sequence of tasks, against the papers' sums written out by hand."""

from __future__ import annotations

import math

import pytest
import torch

from trustformers_pl.continual.transfer import (
    average_accuracy,
    backward_transfer,
    forgetting,
    forward_transfer,
)

NAN = math.nan
MATRIX = torch.tensor([[0.9, 0.3, 0.2], [0.8, 0.95, 0.4], [0.85, 0.7, 1.0]])


def test_the_papers_sums() -> None:
    """Worked out on paper from equations 2 to 4 of Lopez-Paz & Ranzato, and the definitions of Chaudhry et al."""
    assert average_accuracy(MATRIX) == pytest.approx((0.85 + 0.7 + 1.0) / 3)
    assert backward_transfer(MATRIX) == pytest.approx(((0.85 - 0.9) + (0.7 - 0.95)) / 2)
    assert forward_transfer(MATRIX, torch.tensor([0.1, 0.25, 0.15])) == pytest.approx(((0.3 - 0.25) + (0.4 - 0.15)) / 2)
    assert forgetting(MATRIX) == pytest.approx(((0.9 - 0.85) + (0.95 - 0.7)) / 2)


def test_forgetting_looks_for_the_best_at_any_time() -> None:
    """A task that a later one made better is compared with that."""
    matrix = torch.tensor([[0.5, 0.8, 0.0], [0.9, 0.6, 0.0], [0.7, 0.7, 0.9]])
    assert forgetting(matrix) == pytest.approx(((0.9 - 0.7) + (0.8 - 0.7)) / 2)
    assert backward_transfer(matrix) == pytest.approx(((0.7 - 0.5) + (0.7 - 0.6)) / 2)


@pytest.mark.parametrize("learned", [1, 2])
def test_half_way_only_learned_tasks_count(learned: int) -> None:
    part, square = MATRIX[:learned], MATRIX[:learned, :learned]
    untrained = torch.zeros(3)
    for found, wanted in [
        (average_accuracy(part), average_accuracy(square)),
        (forgetting(part), forgetting(square)),
        (backward_transfer(part), backward_transfer(square)),
        (forward_transfer(part, untrained), forward_transfer(square, untrained)),
    ]:
        assert found == pytest.approx(wanted, nan_ok=True)
        assert math.isnan(wanted) == (learned == 1 and wanted != average_accuracy(square))


def test_what_was_not_measured() -> None:
    """Tasks are often tested only once learned: that suffices for all but forward transfer."""
    lower = MATRIX.clone()
    lower[torch.ones(3, 3).triu(1).bool()] = NAN
    assert average_accuracy(lower) == average_accuracy(MATRIX)
    assert forgetting(lower) == forgetting(MATRIX)
    assert backward_transfer(lower) == backward_transfer(MATRIX)
    assert math.isnan(forward_transfer(lower, torch.zeros(3)))
    lower[2, 1] = NAN
    assert math.isnan(average_accuracy(lower))
    assert math.isnan(forgetting(lower))


@pytest.mark.parametrize("shape", [(0, 3), (3,), (4, 3)])
def test_other_shapes_are_refused(shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match="accuracies must be"):
        average_accuracy(torch.zeros(shape))
