"""Terms that keep a network's old answers: learning without forgetting, and (dark) experience replay."""

from __future__ import annotations

import torch
from torch import Tensor


def lwf_loss(
    logits: Tensor,
    old_logits: Tensor,
    outputs: Tensor | None = None,
    *,
    temperature: float = 2.0,
    labels: Tensor | None = None,
    sample_weights: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """Cross-entropy of a network's answers to those of the network that it was, both softened.

    T^2 sum_n -sum_i p'_ni log q'_ni with p' = softmax(old / T) and q' = softmax(new / T) over the old outputs: Li &
    Hoiem 2016, "Learning without Forgetting", equations 2 and 3 (their y^(1/T), normalised, is that softmax). Factor
    T^2 as in Hinton et al. 2015, "Distilling the Knowledge in a Neural Network", section 2: gradients do not shrink
    with T.

    Args:
        logits: (..., C), of the network in training.
        old_logits: (..., C) or, of a network with fewer outputs, (..., C'), C' < C; no gradient flows to them.
        outputs: (C,) bool, the outputs that the old network knew; left out, the first C' ones. A multi-head network has
            one call for each old task.
        temperature: T.
        labels: (...), positions with -100 are left out.
        sample_weights: (B,), factors of the samples, which are the first dimension.

    Returns:
        The sum over positions, and their number: scalars, at least in float32. Without any old output both are 0.

    Raises:
        ValueError: `outputs` does not fit the logits, or the temperature is not positive.
    """
    if temperature <= 0:
        raise ValueError(f"the temperature must be positive, not {temperature}")
    known = old_outputs(logits.shape[-1], old_logits.shape[-1]) if outputs is None else outputs
    if known.shape != logits.shape[-1:] or bool(known[old_logits.shape[-1] :].any()):
        raise ValueError(
            f"outputs {tuple(known.shape)} must tell of {logits.shape[-1]} outputs which the old network with "
            f"{old_logits.shape[-1]} outputs knew"
        )
    kind = torch.promote_types(logits.dtype, torch.float32)
    new = logits[..., known].to(kind) / temperature
    old = old_logits[..., known[: old_logits.shape[-1]]].detach().to(kind) / temperature
    losses = -(temperature**2) * (old.softmax(-1) * new.log_softmax(-1)).sum(-1)
    return _summed(losses, labels if bool(known.any()) else torch.full(losses.shape, -100), sample_weights)


def old_outputs(now: int, before: int) -> Tensor:
    """(now,) bool: the first `before` of a network's outputs."""
    return torch.arange(now) < before


def der_loss(logits: Tensor, stored_logits: Tensor, sample_weights: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """The squared distance to the logits that were stored with each sample of a memory.

    sum_n ||z_n - h(x_n)||^2: Buzzega et al. 2020, "Dark Experience for General Continual Learning", section 3, to be
    multiplied by alpha. DER++ (the same section) adds beta times the cross-entropy of another draw from the memory to
    its labels: the model's own loss. The authors' code takes the mean over outputs as well: its alpha is C times ours.

    Args:
        logits: (B, ..., C), of the network in training.
        stored_logits: Of the same shape; or fewer outputs, from before the network grew.
        sample_weights: (B,).

    Returns:
        The sum over samples and positions, and the number of positions: scalars, at least in float32.
    """
    kind = torch.promote_types(logits.dtype, torch.float32)
    known = logits[..., : stored_logits.shape[-1]].to(kind)
    return _summed((known - stored_logits.detach().to(kind)).square().sum(-1), None, sample_weights)


def _summed(losses: Tensor, labels: Tensor | None, sample_weights: Tensor | None) -> tuple[Tensor, Tensor]:
    kept = torch.ones_like(losses, dtype=torch.bool) if labels is None else labels.to(losses.device) != -100
    losses = torch.where(kept, losses, 0.0)
    if sample_weights is not None:
        losses = losses * sample_weights.view(-1, *[1] * (losses.dim() - 1))
    return losses.sum(), kept.sum()
