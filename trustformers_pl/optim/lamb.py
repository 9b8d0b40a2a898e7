"""LAMB: Adam's direction, each parameter's step as long as its norm says."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch.optim.adam import adam

from trustformers_pl.optim.wide_state import WideStateOptimizer, norm
from trustformers_pl.shards import are_sharded, local, norms_of_shards

if TYPE_CHECKING:
    from collections.abc import Iterator

    from torch import Tensor
    from torch.optim.optimizer import ParamsT

AT_ONCE = 2**26  # bytes of shards whose norms are summed over the ranks together


class LAMB(WideStateOptimizer):
    r"""Layer-wise adaptive moments (You et al. 2020, "Large Batch Optimization for Deep Learning", algorithm 2).

    With Adam's bias-corrected moments, `r = m / (sqrt(v) + eps)` and `u = r + weight_decay * w`, each parameter makes
    the step `w -= lr * norm(w) / norm(u) * u`: the paper's, with phi the identity, for every parameter. Where one of
    the norms is 0, their ratio counts as 1, so that weights that start at zero can move.

    NVIDIA's and timm's LAMB differ: they first scale all gradients to a common norm of 1, and do not adapt parameters
    without weight decay. Moments of half-precision parameters are float32.
    """

    def __init__(
        self,
        params: ParamsT,
        lr: float = 2e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-6,
        weight_decay: float = 0.01,
    ) -> None:
        """Make the optimizer.

        Args:
            params: Parameters, named parameters or groups of them.
            lr: Learning rate: the length of a step relative to the length of the parameter.
            betas: Decay rates of the first and second moments.
            eps: Added to the root of the second moment.
            weight_decay: Of the parameter, added to Adam's direction, for groups that do not say otherwise.

        Raises:
            ValueError: A value that no step can use, or no parameters.
        """
        if min(lr, eps, weight_decay) < 0:
            raise ValueError(f"lr, eps and weight_decay must not be negative: {lr}, {eps}, {weight_decay}")
        if not all(0 <= beta < 1 for beta in betas):
            raise ValueError(f"betas must be in [0, 1), not {betas}")
        super().__init__(params, {"lr": lr, "betas": betas, "eps": eps, "weight_decay": weight_decay})

    def update(self, parameter: Tensor, gradient: Tensor, state: dict[str, Any], group: dict[str, Any]) -> None:
        """Algorithm 2, lines 6 to 11, for one parameter."""
        weight = parameter.to(gradient.dtype)
        change = direction(weight, gradient, state, group)
        ratio = trust_ratio(norm(weight), norm(change))
        parameter.addcmul_(change, ratio, value=-group["lr"])

    def update_all(self, parameters: list[Tensor], group: dict[str, Any]) -> None:
        """The same for all parameters of a group; of shards, with one sum over the ranks for many norms."""
        if not are_sharded(parameters):
            super().update_all(parameters, group)
            return
        for some in _runs(parameters):
            self._update_shards(some, group)

    def _update_shards(self, parameters: list[Tensor], group: dict[str, Any]) -> None:
        weights, changes, gradients = [], [], []
        for parameter in parameters:
            gradient = self.wide_gradient(parameter)
            state, own = self.state[parameter], local(gradient)
            if not state:
                begin(state, gradient)
            weights.append(local(parameter).to(own.dtype))
            changes.append(direction(weights[-1], own, {name: local(value) for name, value in state.items()}, group))
            gradients.append(gradient)
        lengths = norms_of_shards([*weights, *changes], [*gradients, *gradients])
        ratios = trust_ratio(*lengths.view(2, -1))
        for parameter, change, ratio in zip(parameters, changes, ratios, strict=True):
            local(parameter).addcmul_(change, ratio, value=-group["lr"])


def direction(weight: Tensor, gradient: Tensor, state: dict[str, Any], group: dict[str, Any]) -> Tensor:
    """`u` of algorithm 2: Adam's direction and the decay, (*)."""
    change = adam_direction(gradient, state, betas=group["betas"], eps=group["eps"])
    if group["weight_decay"]:
        change.add_(weight, alpha=group["weight_decay"])
    return change


def trust_ratio(length: Tensor, its: Tensor) -> Tensor:
    """`norm(w) / norm(u)` of each parameter; 1 where one of the two is 0."""
    usable = (length > 0) & (its > 0)
    return torch.where(usable, length / torch.where(usable, its, 1), 1)


def _runs(parameters: list[Tensor]) -> Iterator[list[Tensor]]:
    """Parameters in runs of about so many bytes: their directions are all there at once."""
    run: list[Tensor] = []
    for parameter in parameters:
        run.append(parameter)
        if sum(local(one).nbytes for one in run) >= AT_ONCE:
            yield run
            run = []
    if run:
        yield run


def begin(state: dict[str, Any], gradient: Tensor) -> None:
    """Adam's state of a parameter that has made no step, laid out as its gradient is."""
    state["step"] = torch.zeros((), dtype=torch.float32, device=gradient.device)
    state["exp_avg"], state["exp_avg_sq"] = torch.zeros_like(gradient), torch.zeros_like(gradient)


def adam_direction(gradient: Tensor, state: dict[str, Any], *, betas: tuple[float, float], eps: float) -> Tensor:
    """Adam's bias-corrected `m / (sqrt(v) + eps)`, and its moments one step further.

    Torch's fused kernel makes a step from zero with the rate -1, which costs a third of the formula written out.

    Args:
        gradient: (*), at least float32; may be a DTensor.
        state: `step`, `exp_avg` and `exp_avg_sq` of the parameter, or empty at its first step; changed in place.
        betas: Decay rates of the two moments.
        eps: Added to the root of the second.

    Returns:
        (*), as the gradient.
    """
    if not state:
        begin(state, gradient)
    moved = torch.zeros_like(gradient)
    adam(
        [moved],
        [gradient],
        [state["exp_avg"]],
        [state["exp_avg_sq"]],
        [],
        [state["step"]],
        fused=True,
        amsgrad=False,
        beta1=betas[0],
        beta2=betas[1],
        lr=-1.0,
        weight_decay=0.0,
        eps=eps,
        maximize=False,
    )
    return moved
