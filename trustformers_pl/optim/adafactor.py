"""Adafactor: the second moment of a matrix as the product of a row and a column."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.distributed.tensor import DTensor, Replicate

from trustformers_pl.optim.wide_state import WideStateOptimizer, norm

if TYPE_CHECKING:
    from torch.optim.optimizer import ParamsT


class Adafactor(WideStateOptimizer):
    r"""Adafactor (Shazeer & Stern 2018, algorithms 4 and 5), whose state is a row and a column for each matrix.

    With `t` the step and `beta2 = 1 - t ** beta2_decay`, of `g ** 2 + eps[0]` the means over columns and rows are
    averaged, `V = R C / mean(R)`, and of the update `U = g / sqrt(V)` the root mean square is held below `clip`. The
    parameter then moves by `alpha * U`, where `alpha` is

    - `lr`, or with `relative_step` the smaller of `lr` and `1 / sqrt(t)`,
    - and with `scale_parameter` that times the larger of `eps[1]` and the parameter's root mean square.

    The paper's own settings are `lr=1e-2` with both. Parameters of more than two dimensions are stacks of matrices in
    their last two; vectors keep a whole second moment. State is at least float32. A squared gradient too large for it
    counts as the largest value that a mean can hold, so that the update stays finite.
    """

    def __init__(
        self,
        params: ParamsT,
        lr: float = 1e-3,
        beta2_decay: float = -0.8,
        eps: tuple[float, float] = (1e-30, 1e-3),
        clip: float = 1.0,
        beta1: float = 0.0,
        weight_decay: float = 0.0,
        *,
        relative_step: bool = False,
        scale_parameter: bool = False,
    ) -> None:
        """Make the optimizer.

        Args:
            params: Parameters, named parameters or groups of them.
            lr: Learning rate; with `relative_step` its upper limit.
            beta2_decay: Exponent of the step in the second moment's decay rate.
            eps: Added to squared gradients; smallest scale of a parameter.
            clip: Largest root mean square of an update, `d` in the paper.
            beta1: Decay rate of the average of updates, which costs a whole copy of the parameters; 0 for none.
            weight_decay: Decay per step, times the learning rate, for groups that do not say otherwise.
            relative_step: Let the learning rate fall as `1 / sqrt(t)`.
            scale_parameter: Make steps relative to the parameter's size.

        Raises:
            ValueError: A value that no step can use, or no parameters.
        """
        if min(lr, weight_decay, eps[1]) < 0 or min(clip, eps[0]) <= 0:
            raise ValueError("lr, eps[1] and weight_decay must not be negative, and eps[0] and clip must be positive")
        if beta2_decay > 0 or not 0 <= beta1 < 1:
            raise ValueError(f"beta2_decay must not be positive, and beta1 in [0, 1): {beta2_decay}, {beta1}")
        settings = {"lr": lr, "beta2_decay": beta2_decay, "eps": eps, "clip": clip, "beta1": beta1}
        switches = {"relative_step": relative_step, "scale_parameter": scale_parameter}
        super().__init__(params, {**settings, **switches, "weight_decay": weight_decay})

    def update(self, parameter: Tensor, gradient: Tensor, state: dict[str, Any], group: dict[str, Any]) -> None:
        """Algorithm 4 (matrices) or 5 (vectors), lines 3 to 10, for one parameter."""
        state["step"] = state.get("step", 0) + 1
        rate = min(group["lr"], state["step"] ** -0.5) if group["relative_step"] else group["lr"]
        change = scaled(gradient, state, group)
        factor = rate / (rms(change) / group["clip"]).clamp(min=1)
        if group["scale_parameter"]:
            factor = factor * rms(parameter.to(gradient.dtype)).clamp(min=group["eps"][1])
        if group["beta1"]:
            average = state.setdefault("exp_avg", torch.zeros_like(change))
            change, factor = average.lerp_(change * factor, 1 - group["beta1"]), torch.ones_like(factor)
        if group["weight_decay"]:
            parameter.mul_(1 - group["lr"] * group["weight_decay"])
        parameter.addcmul_(change, factor, value=-1)


def scaled(gradient: Tensor, state: dict[str, Any], group: dict[str, Any]) -> Tensor:
    """The moments one step further, and the gradient over the root of the estimate that they make.

    Args:
        gradient: (*, n, m), (n,) or a scalar.
        state: `step`, counted from 1; `row` (*, n, 1) and `column` (*, 1, m), or `square` (n,), from the first call on.
        group: `eps` and `beta2_decay`.

    Returns:
        As the gradient.
    """
    new, eps = state["step"] ** group["beta2_decay"], group["eps"][0]
    most = torch.finfo(gradient.dtype).max / max(1, gradient.numel())
    squares = gradient.square()
    if gradient.ndim < 2:
        return gradient * _moved(state, "square", squares.clamp_(max=most).add_(eps), new).rsqrt()
    row = _moved(state, "row", _settled(squares.mean(dim=-1, keepdim=True)).clamp(max=most).add_(eps), new)
    column = _moved(state, "column", _settled(squares.mean(dim=-2, keepdim=True)).clamp(max=most).add_(eps), new)
    # Root by root: the product R C could leave the range of float32.
    root = row.mean(dim=-2, keepdim=True).sqrt() * row.rsqrt()
    result: Tensor = (gradient * root).mul_(column.rsqrt())
    return result


def _moved(state: dict[str, Any], name: str, value: Tensor, new: float) -> Tensor:
    """The moving average `name`, moved towards `value` by the share `new`; started from zero."""
    average: Tensor = state.setdefault(name, torch.zeros_like(value))
    average.lerp_(value, new)
    return average


def rms(tensor: Tensor) -> Tensor:
    """Root mean square of a tensor, (*), or of a DTensor's whole: a plain scalar."""
    return norm(tensor) / math.sqrt(max(1, tensor.numel()))


def _settled(value: Tensor) -> Tensor:
    """A mean over ranks is taken now: neither state nor what is not linear can wait for it."""
    if not isinstance(value, DTensor):
        return value
    placements = [Replicate() if placement.is_partial() else placement for placement in value.placements]
    settled: Tensor = value.redistribute(placements=placements)
    return settled
