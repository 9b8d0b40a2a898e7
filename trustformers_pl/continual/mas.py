"""Memory aware synapses: how much each weight changes the answers, from inputs without labels."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch

from trustformers_pl.continual.per_sample import LIMIT, PerSample, wide

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from torch import Tensor, nn


def squared_norms(outputs: Tensor, batch: Any = None) -> Tensor:
    """||F(x)||^2 of each sample.

    Args:
        outputs: (B, ...).
        batch: Not read.

    Returns:
        (B,), at least in float32.
    """
    del batch
    return outputs.to(wide(outputs.dtype)).square().flatten(1).sum(1)


def answer_sensitivity(
    module: nn.Module,
    batches: Iterable[Any],
    *,
    forward: Callable[[Any], Any] | None = None,
    limit: int = LIMIT,
    check: bool = True,
) -> tuple[dict[str, Tensor], int]:
    """Sums over samples of |d ||F(x_n)||^2 / d w_i|, without the division by N.

    Aljundi et al. 2018, "Memory Aware Synapses", equation 2 with the squared norm of the outputs of section 4.1, from
    exact per-sample gradients: the absolute value of a batch's mean gradient, where samples cancel, is not this.

    Args:
        module: The model; it runs in evaluation mode.
        batches: Of samples, on the model's device.
        forward: `forward(batch)` makes the outputs (B, ...); by default the module itself does.
        limit: As for `diagonal_fisher`.
        check: As for `diagonal_fisher`.

    Returns:
        Name of a parameter -> sum in its shape, at least in float32; and the number of samples N.
    """
    found = PerSample(module, squared_norms, torch.abs, forward=forward, limit=limit, check=check)
    for batch in batches:
        found.add(batch)
    return found.totals, found.samples
