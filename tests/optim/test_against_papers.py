"""Fifty steps of each optimizer against the paper's algorithm in float64 (`references.py`)."""

from __future__ import annotations

import pytest
import references
import torch
from references import problem, stepped
from torch import nn

from trustformers_pl.optim import LAMB, SGD, Adafactor, Adam, AdamW

BETAS = (0.9, 0.95)


@pytest.mark.parametrize(
    ("momentum", "dampening", "nesterov"), [(0.0, 0.0, False), (0.9, 0.0, False), (0.9, 0.0, True), (0.9, 0.3, False)]
)
def test_sgd(momentum: float, dampening: float, nesterov: bool) -> None:
    start, gradients = problem()
    optimizer = SGD([nn.Parameter(start.clone())], 0.01, momentum, dampening, nesterov=nesterov)
    expected = references.sgd(start, gradients, 0.01, momentum, dampening, nesterov)
    torch.testing.assert_close(stepped(optimizer, gradients), expected, rtol=1e-12, atol=1e-12)


def test_sgd_puts_the_penalty_into_the_gradient() -> None:
    """One step of the loss 0 with the penalty 0.1 / 2 * w ** 2, whose gradient is 0.1 w."""
    optimizer = SGD([nn.Parameter(torch.tensor([2.0]))], lr=0.5, weight_decay=0.1)
    assert stepped(optimizer, [torch.zeros(1)]).item() == pytest.approx(2.0 - 0.5 * 0.1 * 2.0)


@pytest.mark.parametrize("scale", [1.0, 1e-6, 1e6])
@pytest.mark.parametrize("l2", [0.0, 0.1])
def test_adam(scale: float, l2: float) -> None:
    start, gradients = problem(scale=scale)
    optimizer = Adam([nn.Parameter(start.clone())], lr=0.01, betas=BETAS, weight_decay=l2)
    expected = references.adam(start, gradients, 0.01, l2)
    torch.testing.assert_close(stepped(optimizer, gradients), expected, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("scale", [1.0, 1e-6, 1e6])
def test_adamw_without_bias_correction_is_berts(scale: float) -> None:
    start, gradients = problem(scale=scale)
    optimizer = AdamW([nn.Parameter(start.clone())], lr=0.01, betas=BETAS, weight_decay=0.1, correct_bias=False)
    expected = references.bert_adam(start, gradients, 0.01, 0.1)
    torch.testing.assert_close(stepped(optimizer, gradients), expected, rtol=1e-10, atol=1e-12)


def test_adamw_without_bias_correction_makes_a_larger_first_step() -> None:
    """Of a gradient of 1: (1 - 0.9) / sqrt(1 - 0.999) = 3.16 times the learning rate."""
    optimizer = AdamW([nn.Parameter(torch.zeros(1))], lr=0.01, weight_decay=0.0, correct_bias=False)
    assert stepped(optimizer, [torch.ones(1)]).item() == pytest.approx(-0.01 * 0.1 / 0.001**0.5, rel=1e-5)


@pytest.mark.parametrize("scale", [1.0, 1e-6, 1e6])
@pytest.mark.parametrize("shape", [(7, 5), (11,), (2, 3, 4)])
def test_lamb(scale: float, shape: tuple[int, ...]) -> None:
    start, gradients = problem(shape, scale)
    optimizer = LAMB([nn.Parameter(start.clone())], lr=0.01, betas=BETAS, weight_decay=0.1)
    expected = references.lamb(start, gradients, 0.01, 0.1)
    torch.testing.assert_close(stepped(optimizer, gradients), expected, rtol=1e-10, atol=1e-12)


def test_lamb_moves_what_starts_at_zero() -> None:
    """Its norm is 0, so the step is Adam's: the sign of the gradient times the learning rate."""
    optimizer = LAMB([nn.Parameter(torch.zeros(3))], lr=0.01, weight_decay=0.0)
    moved = stepped(optimizer, [torch.tensor([1.0, -2.0, 0.0])])
    torch.testing.assert_close(moved, torch.tensor([-0.01, 0.01, 0.0]), rtol=1e-5, atol=0)


@pytest.mark.parametrize("scale", [1.0, 1e-6, 1e6])
@pytest.mark.parametrize("shape", [(7, 5), (11,)])
@pytest.mark.parametrize(("relative", "scaled"), [(False, False), (True, True), (True, False), (False, True)])
def test_adafactor(scale: float, shape: tuple[int, ...], relative: bool, scaled: bool) -> None:
    start, gradients = problem(shape, scale)
    parameter = nn.Parameter(start.clone())
    optimizer = Adafactor([parameter], lr=0.3, relative_step=relative, scale_parameter=scaled)
    expected = references.adafactor(start, gradients, 0.3, relative=relative, scaled=scaled)
    torch.testing.assert_close(stepped(optimizer, gradients), expected, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("shape", [(7, 5), (11,), (2, 3, 4)])
def test_adafactor_as_torch_has_it(shape: tuple[int, ...]) -> None:
    """Torch's adds no epsilon to the squares but bounds the root from below, which ordinary gradients do not reach."""
    start, gradients = problem(shape)
    theirs = torch.optim.Adafactor([nn.Parameter(start.clone())], lr=0.3, weight_decay=0.1)
    parameter = nn.Parameter(start.clone())
    ours = Adafactor([parameter], lr=0.3, weight_decay=0.1, relative_step=True, scale_parameter=True)
    torch.testing.assert_close(stepped(ours, gradients), stepped(theirs, gradients), rtol=1e-8, atol=1e-10)


def test_adafactor_keeps_a_row_and_a_column() -> None:
    """A stack of two 100 x 50 matrices: 300 numbers for 10,000, where Adam keeps 20,000."""
    parameter = nn.Parameter(torch.randn(2, 100, 50))
    optimizer = Adafactor([parameter])
    stepped(optimizer, [torch.randn(2, 100, 50)])
    kept = {name: tuple(value.shape) for name, value in optimizer.state[parameter].items() if name != "step"}
    assert kept == {"row": (2, 100, 1), "column": (2, 1, 50)}


def test_adafactors_average_of_updates() -> None:
    """With a constant gradient every update is its sign, so the average after t steps is 1 - 0.9 ** t of it."""
    optimizer = Adafactor([nn.Parameter(torch.zeros(4))], lr=1.0, beta1=0.9)
    moved = stepped(optimizer, [torch.full((4,), 3.0)] * 3)
    expected = -sum(1 - 0.9**t for t in (1, 2, 3))
    torch.testing.assert_close(moved, torch.full((4,), expected), rtol=1e-6, atol=0)
