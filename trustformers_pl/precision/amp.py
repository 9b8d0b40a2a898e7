"""`AMP`: the Precision plugin for every opt level of 16-bit training."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal

import torch
from lightning.fabric.plugins.precision.utils import _convert_fp_tensor
from lightning_utilities.core.apply_func import apply_to_collection
from torch import Tensor, nn
from typing_extensions import override

from trustformers_pl.decomposed import DecomposedLoss
from trustformers_pl.errors import NonFiniteError, RefusedError
from trustformers_pl.gradients import GradientPhase
from trustformers_pl.precision.levels import DTYPES, NAMES, usual_level, usual_scale, why_refused
from trustformers_pl.precision.masters import MasterWeights
from trustformers_pl.precision.scaling import DynamicLossScale, StaticLossScale
from trustformers_pl.precision_order import OrderedPrecision

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping
    from contextlib import AbstractContextManager

    from lightning import LightningModule

    from trustformers_pl.gradients import GradientStep, Rule


class AMP(OrderedPrecision):
    """Training in 16 bits, by the opt levels that NVIDIA's Apex made known.

    - `O0`: everything in `dtype`, `fp32` or `fp64`.
    - `O1`: float32 weights; torch's autocast picks the type of each operation.
    - `O2`: the model computes in 16 bits, weights too; its float32 masters are what the optimizer trains.
    - `O3`: weights, gradients and optimizer state in 16 bits.

    Losses of `fp16` are scaled, at O3 only if asked. In O2 and O3 `forward` gets 16-bit inputs and gives float32
    outputs, so that a composable module's loss is computed in float32; a module with a `training_step` of its own gets
    16-bit batches, as with Lightning's `16-true`.

    Works in a stock Trainer: `Trainer(plugins=[AMP("fp16", opt_level="O2")])`.

    Args:
        dtype: `fp32`, `bf16`, `fp16` or `fp64`.
        opt_level: By default O1 for 16 bits, O0 otherwise.
        loss_scale: `dynamic`, `none` or a fixed factor; for fp16 only. By default dynamic at O1 and O2.
        initial_scale: First dynamic scale.
        growth_factor: By which the dynamic scale grows.
        backoff_factor: By which it falls after an overflow.
        growth_interval: Optimizer steps without an overflow after which it grows.
        min_scale: Below which it never falls.
        max_skips: Skipped optimizer steps in a row after which the run stops.
        rules: Gradient phase -> rules of features.

    Raises:
        RefusedError: The type, the level and the loss scale do not go together.
    """

    def __init__(
        self,
        dtype: str = "fp32",
        *,
        opt_level: Literal["O0", "O1", "O2", "O3"] | None = None,
        loss_scale: Literal["dynamic", "none"] | float | None = None,
        initial_scale: float = 65536.0,
        growth_factor: float = 2.0,
        backoff_factor: float = 0.5,
        growth_interval: int = 2000,
        min_scale: float = 1.0,
        max_skips: int = 25,
        rules: Mapping[str, Iterable[Rule]] | None = None,
    ) -> None:
        level = opt_level or usual_level(dtype)
        if (problem := why_refused(dtype, level, loss_scale)) is not None:
            raise RefusedError(f"precision: {problem}")
        super().__init__(NAMES[dtype, level], rules=rules)
        self.opt_level = level
        self.dtype: torch.dtype = getattr(torch, DTYPES[dtype])
        self.max_skips = max_skips
        self.skipped_steps = self._in_a_row = 0
        self._scale = loss_scale or usual_scale(dtype, level)
        self._dynamics: dict[str, Any] = {
            "initial": initial_scale,
            "growth_factor": growth_factor,
            "backoff_factor": backoff_factor,
            "growth_interval": growth_interval,
            "floor": min_scale,
        }
        finite = self.order.rules[GradientPhase.FINITE]
        self.order.rules[GradientPhase.FINITE] = (*finite, self._count_skips)
        self._masters: MasterWeights | None = None
        self._module: Any = None

    @override
    def convert_module(self, module: nn.Module) -> nn.Module:
        """Get the weights, the forward pass and the loss scale ready."""
        if self.opt_level == "O2" and not _sharded(module):
            self._masters = MasterWeights(module, self.dtype)
        if self.opt_level in ("O2", "O3"):
            self._module = module
            module.forward = _SixteenBitForward(module.forward, self.dtype)
        return super().convert_module(module)

    @property
    def compute_dtype(self) -> torch.dtype | None:
        """What a strategy that shards weights computes in, with its shards as masters; None: in the weights' type."""
        return self.dtype if self.opt_level == "O2" else None

    @override
    def make_scaler(self, device: str) -> torch.amp.GradScaler | None:
        if self._scale == "none":
            return None
        if self._scale == "dynamic":
            return DynamicLossScale(device, **self._dynamics)
        return StaticLossScale(float(self._scale), device)

    @override
    def teardown(self) -> None:
        if self._module is not None:
            vars(self._module).pop("forward", None)
        self._module = self._masters = None
        super().teardown()

    @override
    def convert_input(self, data: Any) -> Any:
        if isinstance(self._module, DecomposedLoss):  # whose targets stay as they are
            return data
        if self._masters is not None:
            return apply_to_collection(data, Tensor, _convert_fp_tensor, dst_type=self.dtype)
        return super().convert_input(data)

    @override
    def forward_context(self) -> AbstractContextManager[Any]:
        return super().forward_context() if self._masters is None else self._masters.forward()

    @override
    def backward(self, tensor: Tensor, model: LightningModule, optimizer: Any, *args: Any, **kwargs: Any) -> None:  # type: ignore[override]
        if self._masters is None:
            super().backward(tensor, model, optimizer, *args, **kwargs)
        else:
            with self._masters.backward():
                super().backward(tensor, model, optimizer, *args, **kwargs)

    @property
    def loss_scale(self) -> float | None:
        """The factor of the loss now; None without one."""
        return None if self.scaler is None else self.scaler.get_scale()

    def _count_skips(self, step: GradientStep) -> None:
        """Count skipped steps.

        Raises:
            NonFiniteError: Too many in a row.
        """
        self._in_a_row = self._in_a_row + 1 if step.skip else 0
        self.skipped_steps += step.skip
        if self._in_a_row > self.max_skips:
            raise NonFiniteError(
                f"optimizer step {step.module.trainer.global_step + 1}: the gradients of {self._in_a_row} steps in a "
                f"row were not finite, the last with a loss scale of {self.loss_scale or 1:g}; the weights are "
                "untouched; lower the learning rate, train in bf16, or give a smaller precision.loss_scale"
            )

    @override
    def state_dict(self) -> dict[str, Any]:
        counted = {"skipped_steps": self.skipped_steps, "in_a_row": self._in_a_row}
        return {**super().state_dict(), **counted} if self.scaler is not None else {}

    @override
    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        super().load_state_dict(state_dict)
        self.skipped_steps = state_dict.get("skipped_steps", 0)
        self._in_a_row = state_dict.get("in_a_row", 0)


class _SixteenBitForward:
    """A module's `forward` with 16-bit inputs and float32 outputs."""

    def __init__(self, forward: Any, dtype: torch.dtype) -> None:
        self.forward, self.dtype = forward, dtype

    def __call__(self, *arguments: Any, **named: Any) -> Any:
        arguments, named = _cast((arguments, named), self.dtype)
        return _cast(self.forward(*arguments, **named), torch.float32)


def _sharded(module: nn.Module) -> bool:
    trainer: Any = getattr(module, "_trainer", None)
    return trainer is not None and getattr(trainer.strategy, "shards_weights", False)


def _cast(data: Any, dtype: torch.dtype) -> Any:
    return apply_to_collection(data, Tensor, _convert_fp_tensor, dst_type=dtype)
