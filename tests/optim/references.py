"""The papers' algorithms, written out in float64 and independently of the package: what its optimizers must do."""

from __future__ import annotations

import torch
from torch import Tensor


def problem(shape: tuple[int, ...] = (7, 5), scale: float = 1.0, steps: int = 50) -> tuple[Tensor, list[Tensor]]:
    """A start and a gradient for each step, float64."""
    generator = torch.Generator().manual_seed(0)
    start = torch.randn(shape, generator=generator, dtype=torch.float64)
    return start, [scale * torch.randn(shape, generator=generator, dtype=torch.float64) for _ in range(steps)]


def stepped(optimizer: torch.optim.Optimizer, gradients: list[Tensor]) -> Tensor:
    """The optimizer's only parameter after a step with each gradient."""
    (parameter,) = optimizer.param_groups[0]["params"]
    for gradient in gradients:
        parameter.grad = gradient.to(parameter.dtype)
        optimizer.step()
    return parameter.detach()


def sgd(w: Tensor, gradients: list[Tensor], lr: float, momentum: float, dampening: float, nesterov: bool) -> Tensor:
    """Sutskever et al. 2013, equations 1 to 4, in torch's form: the velocity does not hold the learning rate."""
    velocity = None
    for g in gradients:
        velocity = g if velocity is None else momentum * velocity + (1 - dampening) * g
        w = w - lr * (g + momentum * velocity if nesterov else velocity)
    return w


def adam(w: Tensor, gradients: list[Tensor], lr: float, l2: float) -> Tensor:
    """Kingma & Ba 2015, algorithm 1, of the loss with the penalty `l2 / 2 * norm(w) ** 2`."""
    beta1, beta2, eps = 0.9, 0.95, 1e-8
    m, v = torch.zeros_like(w), torch.zeros_like(w)
    for t, loss_gradient in enumerate(gradients, 1):
        g = loss_gradient + l2 * w
        m, v = beta1 * m + (1 - beta1) * g, beta2 * v + (1 - beta2) * g**2
        w = w - lr * (m / (1 - beta1**t)) / ((v / (1 - beta2**t)) ** 0.5 + eps)
    return w


def bert_adam(w: Tensor, gradients: list[Tensor], lr: float, decay: float) -> Tensor:
    """BERT's `optimization.py`, class AdamWeightDecayOptimizer, `apply_gradients` (Devlin et al. 2019)."""
    beta1, beta2, eps = 0.9, 0.95, 1e-8
    m, v = torch.zeros_like(w), torch.zeros_like(w)
    for g in gradients:
        m, v = beta1 * m + (1 - beta1) * g, beta2 * v + (1 - beta2) * g**2
        update = m / (v**0.5 + eps)
        w = w - lr * (update + decay * w)
    return w


def lamb(w: Tensor, gradients: list[Tensor], lr: float, decay: float) -> Tensor:
    """You et al. 2020, algorithm 2, with phi the identity, for one layer."""
    beta1, beta2, eps = 0.9, 0.95, 1e-6
    m, v = torch.zeros_like(w), torch.zeros_like(w)
    for t, g in enumerate(gradients, 1):
        m, v = beta1 * m + (1 - beta1) * g, beta2 * v + (1 - beta2) * g**2
        r = (m / (1 - beta1**t)) / ((v / (1 - beta2**t)) ** 0.5 + eps)
        direction = r + decay * w
        w = w - lr * (w**2).sum() ** 0.5 / (direction**2).sum() ** 0.5 * direction
    return w


def adafactor(w: Tensor, gradients: list[Tensor], lr: float, *, relative: bool, scaled: bool) -> Tensor:
    """Shazeer & Stern 2018, algorithm 4 (a matrix) or 5 (a vector), with sums over rows and columns as there."""
    eps1, eps2, d = 1e-30, 1e-3, 1.0
    rows = columns = v = 0.0
    for t, g in enumerate(gradients, 1):
        rho = min(lr, 1 / t**0.5) if relative else lr
        alpha = rho * max(eps2, (w**2).mean().item() ** 0.5) if scaled else rho
        beta2 = 1 - t**-0.8
        squares = g**2 + eps1
        if g.ndim == 2:
            rows = beta2 * rows + (1 - beta2) * squares.sum(1)
            columns = beta2 * columns + (1 - beta2) * squares.sum(0)
            v = torch.outer(rows, columns) / rows.sum()
        else:
            v = beta2 * v + (1 - beta2) * squares
        u = g / v**0.5
        w = w - alpha * u / max(1.0, (u**2).mean().item() ** 0.5 / d)
    return w
