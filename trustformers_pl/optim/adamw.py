"""AdamW: torch's, on its fused kernel where the parameters allow it, with or without bias correction."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch

from trustformers_pl.optim.fused import fuse

if TYPE_CHECKING:
    from torch import Tensor
    from torch.optim.optimizer import ParamsT

# Where 1 - beta ** step is 1, for every beta up to 0.999999, and adding 1 in float32 changes nothing.
AT_THE_LIMIT = 2.0**24


class AdamW(torch.optim.AdamW):
    r"""Adam with decoupled weight decay (Loshchilov & Hutter 2019, "Decoupled Weight Decay Regularization", alg. 2).

    The update is torch's own; with the fused kernel a step reads and writes each weight once. Without bias correction
    it is the optimizer of the original BERT (Devlin et al. 2019, `AdamWeightDecayOptimizer`): torch's update at the
    limit of the step number, where both corrections are 1.
    """

    def __init__(
        self,
        params: ParamsT,
        lr: float = 1e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 0.01,
        *,
        correct_bias: bool = True,
    ) -> None:
        """Make the optimizer.

        Args:
            params: Parameters, named parameters or groups of them.
            lr: Learning rate.
            betas: Decay rates of the first and second moments.
            eps: Added to the root of the second moment.
            weight_decay: Decay per step, times the learning rate, for groups that do not say otherwise.
            correct_bias: Divide the moments by `1 - beta ** step`, as they start from zero. False as in the original
                BERT: the first steps are larger (3.2 times with the default betas), so warm up.

        Raises:
            ValueError: A value that no step can use, or no parameters.
        """
        super().__init__(params, lr=lr, betas=betas, eps=eps, weight_decay=weight_decay)
        self.correct_bias = correct_bias
        fuse(self)

    def step(self, closure: Any = None) -> Any:
        """One optimizer step.

        Args:
            closure: Computes the loss and the gradients anew.

        Returns:
            What the closure returned, or None.
        """
        if self.correct_bias:
            return super().step(closure)
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            for parameter in group["params"]:
                if parameter.grad is not None and not self.state[parameter]:
                    self.state[parameter] = _without_correction(parameter, group["fused"])
        super().step()
        return loss


def _without_correction(parameter: Tensor, fused: bool | None) -> dict[str, Any]:
    """Torch's state of a parameter that makes its first step, but for the step number."""
    return {
        "step": torch.tensor(AT_THE_LIMIT, dtype=torch.float32, device=parameter.device if fused else "cpu"),
        "exp_avg": torch.zeros_like(parameter, memory_format=torch.preserve_format),
        "exp_avg_sq": torch.zeros_like(parameter, memory_format=torch.preserve_format),
    }
