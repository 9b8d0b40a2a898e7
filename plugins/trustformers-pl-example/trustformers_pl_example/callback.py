"""The Lightning part: when the noise is added."""

from __future__ import annotations

from typing import TYPE_CHECKING

from lightning.pytorch import Callback

from trustformers_pl_example.noise import add_noise_, standard_deviation

if TYPE_CHECKING:
    from lightning.pytorch import LightningModule, Trainer
    from torch.optim import Optimizer


class GradientNoise(Callback):
    """Adds annealed Gaussian noise to the gradients before each optimizer step.

    Works in any `lightning.Trainer`, as `callbacks=[GradientNoise(eta=0.01)]`.

    The gradients are synchronised and unscaled then, and not clipped yet: clipping bounds the noise, too.

    There is no state to save: the noise follows from the seed and the step.

    Args:
        eta: Variance of the noise at the first step. 0 adds nothing.
        gamma: The variance falls as (1 + step)^-gamma.
        seed: Another seed gives other noise.

    Attributes:
        deviations: Standard deviation of the first and of the last noise of this fit; empty before.
    """

    def __init__(self, *, eta: float, gamma: float = 0.55, seed: int = 0) -> None:
        self.eta, self.gamma, self.seed = eta, gamma, seed
        self.deviations: list[float] = []

    def on_before_optimizer_step(self, trainer: Trainer, pl_module: LightningModule, optimizer: Optimizer) -> None:
        """Add the noise of this step."""
        if self.eta == 0:  # not even zeros: -0.0 + 0.0 is 0.0
            return
        step = trainer.global_step
        deviation = standard_deviation(step, eta=self.eta, gamma=self.gamma)
        parameters = (parameter for group in optimizer.param_groups for parameter in group["params"])
        add_noise_(parameters, deviation, seed=self.seed, step=step)
        self.deviations = [*self.deviations[:1], deviation]
