"""Adam: torch's, on its fused kernel where the parameters allow it."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from trustformers_pl.optim.fused import fuse

if TYPE_CHECKING:
    from torch.optim.optimizer import ParamsT


class Adam(torch.optim.Adam):
    r"""Adam (Kingma & Ba 2015, algorithm 1), with weight decay as an L2 penalty in the gradient.

    The penalty is then scaled by the second moment as the gradient is: weights with large gradients decay less. Where
    that is not wanted, take `AdamW`. The update is torch's own.
    """

    def __init__(
        self,
        params: ParamsT,
        lr: float = 1e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 0.0,
    ) -> None:
        """Make the optimizer.

        Args:
            params: Parameters, named parameters or groups of them.
            lr: Learning rate.
            betas: Decay rates of the first and second moments.
            eps: Added to the root of the second moment.
            weight_decay: L2 penalty, added to the gradient, for groups that do not say otherwise.

        Raises:
            ValueError: A value that no step can use, or no parameters.
        """
        super().__init__(params, lr=lr, betas=betas, eps=eps, weight_decay=weight_decay)
        fuse(self)
