"""`OrderedPrecision`: the Precision plugin through which gradients pass in the order of `gradients.py`."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from typing import TYPE_CHECKING, Any

import torch
from lightning.pytorch.plugins.precision import DoublePrecision, HalfPrecision, Precision
from lightning.pytorch.trainer import call
from lightning.pytorch.utilities import GradClipAlgorithmType
from typing_extensions import override

from trustformers_pl.decomposed import DecomposedLoss
from trustformers_pl.errors import RefusedError
from trustformers_pl.gradients import GradientOrder, GradientPhase, GradientStep, clip_by_norm
from trustformers_pl.loss_window import LossWindow
from trustformers_pl.scaler import ShardedGradScaler

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

    from lightning import LightningModule, Trainer
    from torch import Tensor, nn
    from torch.optim import Optimizer

    from trustformers_pl.gradients import Rule
    from trustformers_pl.step_hooks import StepHooks

AUTOCAST = {"16-mixed": torch.float16, "bf16-mixed": torch.bfloat16}
CONVERTED = ("16-true", "bf16-true")
BY_NORM = GradClipAlgorithmType.NORM
ALIASES = {None: "32-true", "32": "32-true", "64": "64-true", "16": "16-mixed", "bf16": "bf16-mixed"}


class OrderedPrecision(Precision):
    """Any of Lightning's precisions, with the gradient order of this package.

    Works in a stock Trainer: `Trainer(plugins=[OrderedPrecision()])`.

    Args:
        precision: Lightning's name: `32-true`, `64-true`, `16-true`, `bf16-true`, `16-mixed`, `bf16-mixed`.
        rules: Gradient phase -> rules of features.
        scaler: Of 16-bit losses; made for `16-mixed` when not given.

    Raises:
        RefusedError: A precision that is not among these.
        ValueError: A rule in a phase that takes none.
    """

    def __init__(
        self,
        precision: str | int | None = None,
        *,
        rules: Mapping[str, Iterable[Rule]] | None = None,
        scaler: torch.amp.GradScaler | None = None,
    ) -> None:
        name = ALIASES.get(None if precision is None else str(precision), str(precision))
        if name not in (*AUTOCAST, *CONVERTED, "32-true", "64-true"):
            raise RefusedError(f"precision {precision!r} has no gradient order; use 32-true, bf16-mixed or 16-mixed")
        self.precision = name  # type: ignore[assignment]
        self.order = GradientOrder(rules, of_16_bits=name in CONVERTED)
        self.scaler = scaler
        self.last_step: GradientStep | None = None
        self.hooks: StepHooks | None = None  # the lean loop's, while it trains
        self._inner: Precision = Precision()
        if name in CONVERTED:
            self._inner = HalfPrecision(name)  # type: ignore[arg-type]
        elif name == "64-true":
            self._inner = DoublePrecision()
        self._device = "cpu"

    @override
    def convert_module(self, module: nn.Module) -> nn.Module:
        """Convert the weights where the precision says so, and let composable modules keep sums."""
        trainer = getattr(module, "_trainer", None)
        self._device = trainer.strategy.root_device.type if trainer is not None else "cpu"
        if self.scaler is None:
            self.scaler = self.make_scaler(self._device)
        if isinstance(module, DecomposedLoss):
            module.loss_window = LossWindow()
        return self._inner.convert_module(module)

    def make_scaler(self, device: str) -> torch.amp.GradScaler | None:
        """The scaler of a run that was given none: torch's own for `16-mixed`."""
        return ShardedGradScaler(device) if self.precision == "16-mixed" else None

    @override
    def convert_input(self, data: Any) -> Any:
        return self._inner.convert_input(data)

    @override
    def convert_output(self, data: Any) -> Any:
        return self._inner.convert_output(data)

    @override
    def tensor_init_context(self) -> AbstractContextManager[Any]:
        return self._inner.tensor_init_context()

    @override
    def module_init_context(self) -> AbstractContextManager[Any]:
        return self._inner.module_init_context()

    @override
    def forward_context(self) -> AbstractContextManager[Any]:
        if self.precision in AUTOCAST:
            return torch.autocast(self._device, dtype=AUTOCAST[self.precision])
        return nullcontext() if type(self._inner) is Precision else self._inner.forward_context()

    @override
    def train_step_context(self) -> AbstractContextManager[Any]:  # type: ignore[override]
        return self.forward_context()

    @override
    def pre_backward(self, tensor: Tensor, module: LightningModule) -> Tensor:  # type: ignore[override]
        scaled = tensor if self.scaler is None else self.scaler.scale(tensor)
        self._call(module, "on_before_backward", scaled)
        return scaled

    @override
    def post_backward(self, tensor: Tensor, module: LightningModule) -> Tensor:  # type: ignore[override]
        self._call(module, "on_after_backward")
        return tensor.detach()

    def _call(self, module: LightningModule, name: str, *arguments: Any) -> None:
        if self.hooks is not None:
            self.hooks.call(name, *arguments)
        else:
            call._call_callback_hooks(module.trainer, name, *arguments)
            call._call_lightning_module_hook(module.trainer, name, *arguments)

    @override
    def optimizer_step(  # type: ignore[override]
        self, optimizer: Optimizer, model: LightningModule, closure: Callable[[], Any], **kwargs: Any
    ) -> Any:
        """Run the closure (forward and backward), then the phases, then the optimizer.

        Raises:
            NonFiniteError: The gradients are not finite, and neither the scaler nor a rule takes care of it.
        """
        if isinstance(optimizer, torch.optim.LBFGS) or not model.automatic_optimization:
            return super().optimizer_step(optimizer, model, closure, **kwargs)
        result = closure()
        if result is None:  # the training step asked for no step
            return result
        step = self.last_step = GradientStep(model, optimizer)
        self.order.before_hooks(step, self.scaler)
        self._call(model, "on_before_optimizer_step", optimizer)
        self.order.check(step, self.scaler)
        self._clip(step)
        if not step.skip:
            optimizer.step(**kwargs)
        if self.scaler is not None:
            self.scaler.update()
        self.order.after_step(step)
        return result

    def _clip(self, step: GradientStep) -> None:
        if step.skip:
            return
        trainer = step.module.trainer
        value, algorithm = trainer.gradient_clip_val, trainer.gradient_clip_algorithm
        if self.hooks is None or self.hooks.clips_itself or not (algorithm is None or algorithm is BY_NORM):
            self._clip_gradients(step.module, step.optimizer, value, gradient_clip_algorithm=algorithm)
        elif value:
            self.clip_grad_by_norm(step.optimizer, value)
        self.order.run(GradientPhase.CLIP, step)

    @override
    def clip_grad_by_norm(self, optimizer: Optimizer, clip_val: float) -> None:
        """Clip with the norm that the finite check has taken already."""
        step = self.last_step
        if step is None or step.norm is None or step.optimizer is not optimizer:
            super().clip_grad_by_norm(optimizer, clip_val)
        else:
            clip_by_norm(step.parameters, float(clip_val), step.norm)

    @property
    def skipped(self) -> bool:
        """Whether the last optimizer step was skipped; then schedules do not step either."""
        return self.last_step is not None and self.last_step.skip

    @override
    def state_dict(self) -> dict[str, Any]:
        return {} if self.scaler is None else {"scaler": self.scaler.state_dict()}

    @override
    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        if self.scaler is not None and "scaler" in state_dict:
            self.scaler.load_state_dict(state_dict["scaler"])


def gradient_order(trainer: Trainer, who: str) -> GradientOrder:
    """The gradient order of a Trainer, for a callback that adds rules to it in `setup`.

    Args:
        trainer: Whose Precision is asked.
        who: The callback's class, for the message.

    Raises:
        RefusedError: The Trainer's Precision has no such order.
    """
    precision = trainer.precision_plugin
    if not isinstance(precision, OrderedPrecision):
        raise RefusedError(
            f"{who} acts in the gradient order, and {type(precision).__name__} has none; give the Trainer "
            "plugins=[OrderedPrecision()] from trustformers_pl.precision_order"
        )
    return precision.order
