"""The diagonal of the Fisher information matrix, from exact per-sample gradients."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch

from trustformers_pl.continual.per_sample import LIMIT, PerSample

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from torch import Tensor, nn


def diagonal_fisher(
    module: nn.Module,
    batches: Iterable[Any],
    losses: Callable[[Any, Any], Tensor],
    *,
    forward: Callable[[Any], Any] | None = None,
    limit: int = LIMIT,
    check: bool = True,
) -> tuple[dict[str, Tensor], int]:
    """Sums over samples of squared gradients: F_i = 1/N sum_n (d loss_n / d w_i)^2, without the division by N.

    Kirkpatrick et al. 2017, "Overcoming catastrophic forgetting in neural networks", section 2; the square of a
    batch's mean gradient, as in several implementations, is not this (van de Ven 2025, "On the Computation of the
    Fisher Information in Continual Learning"). The module runs in evaluation mode; parameters that take no gradient
    are left out. Works under autocast.

    Args:
        module: The model.
        batches: Of samples, on the model's device.
        losses: `losses(outputs, batch)`, each sample's loss summed over positions (B,), or (K, B) for a sum over K:
            `empirical(...)`, `sampled(...)` or `expected` of `trustformers_pl.continual.likelihood`.
        forward: `forward(batch)` makes the outputs; by default the module itself does.
        limit: Most bytes of per-sample gradients of one parameter that are formed at once (at least one sample's).
        check: Whether to verify the per-sample gradients against autograd: see `PerSample`.

    Returns:
        Name of a parameter -> sum of squares in its shape, at least in float32; and the number of samples N. Both add
        up over ranks.
    """
    found = PerSample(module, losses, torch.square, forward=forward, limit=limit, check=check)
    for batch in batches:
        found.add(batch)
    return found.totals, found.samples
