"""AdamW: torch's, on its fused kernel where the parameters allow it."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from torch.optim.optimizer import ParamsT


class AdamW(torch.optim.AdamW):
    r"""Adam with decoupled weight decay (Loshchilov & Hutter 2019, "Decoupled Weight Decay Regularization", alg. 2).

    The update is torch's own; with the fused kernel a step reads and writes each weight once.
    """

    def __init__(
        self,
        params: ParamsT,
        lr: float = 1e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 0.01,
    ) -> None:
        """Make the optimizer.

        Args:
            params: Parameters, named parameters or groups of them.
            lr: Learning rate.
            betas: Decay rates of the first and second moments.
            eps: Added to the root of the second moment.
            weight_decay: Decay per step, times the learning rate, for groups that do not say otherwise.

        Raises:
            ValueError: A value that no step can use, or no parameters.
        """
        super().__init__(params, lr=lr, betas=betas, eps=eps, weight_decay=weight_decay)
        fusible = all(p.is_floating_point() for group in self.param_groups for p in group["params"])
        for group in self.param_groups:
            group["fused"] = fusible or None
