"""The method: Neelakantan et al. 2015, "Adding Gradient Noise Improves Learning for Very Deep Networks".

arXiv 1511.06807. At step t, g <- g + N(0, sigma_t^2) with sigma_t^2 = eta / (1 + t)^gamma.
"""

from __future__ import annotations

import math
from hashlib import blake2b
from typing import TYPE_CHECKING

import torch
from torch.distributed.tensor import DTensor, distribute_tensor

if TYPE_CHECKING:
    from collections.abc import Iterable

    from torch import Tensor


def standard_deviation(step: int, *, eta: float, gamma: float) -> float:
    """The noise's standard deviation sigma_t, in units of the gradient.

    Args:
        step: t, optimizer steps taken before this one.
        eta: Variance at step 0.
        gamma: How fast the variance falls.
    """
    return math.sqrt(eta / (1 + step) ** gamma)


def add_noise_(parameters: Iterable[Tensor], deviation: float, *, seed: int, step: int) -> None:
    """Add noise to the gradients of parameters, in place.

    The noise follows from (seed, step, position of the parameter) alone: it is the same on every rank, sharded or not,
    and after a resume, and no generator of the run is touched.

    Args:
        parameters: Of any shapes; those without a gradient are passed over.
        deviation: The noise's standard deviation.
        seed: Of the run.
        step: Of the run.
    """
    for position, parameter in enumerate(parameters):
        if parameter.grad is not None:
            parameter.grad.add_(_normal_like(parameter.grad, (seed, step, position)), alpha=deviation)


def _normal_like(gradient: Tensor, counter: tuple[int, ...]) -> Tensor:
    """Standard normal float32 numbers of the gradient's shape; of a sharded one, this rank's shard of them."""
    key = ("gradient_noise", *counter)  # the name: other features count with the same seed and step
    digest = blake2b(repr(key).encode(), digest_size=8).digest()
    generator = torch.Generator(gradient.device).manual_seed(int.from_bytes(digest, "little"))
    noise = torch.randn(gradient.shape, generator=generator, device=gradient.device, dtype=torch.float32)
    if isinstance(gradient, DTensor):  # every rank has drawn the whole: nothing needs to be sent
        noise = distribute_tensor(noise, gradient.device_mesh, gradient.placements, src_data_rank=None)
    return noise
