"""Loss scales: factors of the loss that keep float16 gradients above zero (Micikevicius et al. 2018, section 3.2)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from trustformers_pl.scaler import ShardedGradScaler

if TYPE_CHECKING:
    import torch


class DynamicLossScale(ShardedGradScaler):
    """A scale that grows while gradients are finite, and falls when they are not.

    Torch's own `GradScaler`, for shards as well, which also takes float16 gradients out of the scale (weights that are
    float16 themselves have such), with a floor.

    Args:
        device: Type of the device that gradients are on.
        initial: The first scale.
        growth_factor: By which it grows, above 1.
        backoff_factor: By which it falls, below 1.
        growth_interval: Optimizer steps without an overflow after which it grows.
        floor: It never falls below this.
    """

    def __init__(
        self,
        device: str = "cpu",
        *,
        initial: float = 65536.0,
        growth_factor: float = 2.0,
        backoff_factor: float = 0.5,
        growth_interval: int = 2000,
        floor: float = 1.0,
    ) -> None:
        super().__init__(
            device,
            init_scale=initial,
            growth_factor=growth_factor,
            backoff_factor=backoff_factor,
            growth_interval=growth_interval,
        )
        self.floor = floor

    def _unscale_grads_(self, optimizer: Any, inv_scale: Any, found_inf: Any, allow_fp16: bool) -> Any:
        del allow_fp16  # torch refuses float16 gradients where nobody asks for them
        return super()._unscale_grads_(optimizer, inv_scale, found_inf, True)

    def update(self, new_scale: float | torch.Tensor | None = None) -> None:
        """Grow or fall after a step, as its gradients were; with `new_scale`, take that.

        Args:
            new_scale: The scale from now on.
        """
        super().update(new_scale)
        if self._scale is not None:
            self._scale.clamp_(min=self.floor)


class StaticLossScale(DynamicLossScale):
    """A scale that stays. Steps whose gradients overflow are skipped all the same.

    Args:
        scale: The factor.
        device: Type of the device that gradients are on.
    """

    def __init__(self, scale: float, device: str = "cpu") -> None:
        super().__init__(device, initial=scale, floor=0.0)

    def update(self, new_scale: float | torch.Tensor | None = None) -> None:
        """Get ready for the next step.

        Args:
            new_scale: The scale from now on.
        """
        super().update(self.get_scale() if new_scale is None else new_scale)
