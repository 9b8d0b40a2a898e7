"""The one order in which gradients pass from the backward pass to the weights (rule C).

sync -> unscale -> divide -> penalties -> finite -> clip -> step -> ema -> schedule

`OrderedPrecision` runs it in every Trainer that it is given to. Lightning's `on_before_optimizer_step` hooks are called
after the penalties: gradients are synchronised, unscaled and divided there, and not clipped yet.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING

from trustformers_pl.errors import NonFiniteError

if TYPE_CHECKING:
    import torch
    from lightning import LightningModule
    from torch import Tensor
    from torch.optim import Optimizer

    from trustformers_pl.loss_window import LossWindow


class GradientPhase(StrEnum):
    """The phases, in order. A rule of a plugin runs in its phase, after what the phase does by itself."""

    SYNC = "sync"
    """Gradients are summed over the data ranks; the strategy does it during the backward pass."""
    UNSCALE = "unscale"
    """The loss scale of 16-bit training is taken out, also with fused optimizers. No rules: it is ours."""
    DIVIDE = "divide"
    """The sums of a composable module are divided by the global count of the accumulation window. No rules."""
    PENALTIES = "penalties"
    """Gradients of terms that depend on the weights alone are added (EWC and its kin)."""
    FINITE = "finite"
    """The norm is taken, and whether it is finite: by default the run stops there, or the scaler skips the step."""
    CLIP = "clip"
    """The module's `configure_gradient_clipping`, or Lightning's clipping by norm or value."""
    STEP = "step"
    """The optimizer's step, unless it is skipped. No rules."""
    EMA = "ema"
    """What follows the weights: averages, projections. Not called when the step was skipped."""
    SCHEDULE = "schedule"
    """The learning-rate schedules, in Lightning's loop; not when the step was skipped. No rules."""


OURS_ALONE = frozenset({GradientPhase.UNSCALE, GradientPhase.DIVIDE, GradientPhase.STEP, GradientPhase.SCHEDULE})
LISTS_OF_TENSORS = frozenset({"cpu", "cuda", "xpu"})  # devices whose kernels take many tensors at once


@dataclass
class GradientStep:
    """One optimizer step on its way through the phases: what rules get, and may change.

    Attributes:
        module: The LightningModule.
        optimizer: Whose gradients these are.
        count: Elements of the loss that the gradient is the mean over, on all ranks (scalar tensor); None for a plain
            training step.
        factor: What the accumulated gradients were multiplied by, to be those of that mean (scalar tensor); None for 1.
        norm: 2-norm of all gradients before clipping (scalar tensor); None before the phase `finite`.
        finite: Whether the norm is; None before the phase `finite`.
        skip: Whether the optimizer shall not step; a rule of the phase `finite` may decide it.
    """

    module: LightningModule
    optimizer: Optimizer
    count: Tensor | None = None
    factor: Tensor | None = None
    norm: Tensor | None = None
    finite: bool | None = None
    skip: bool = False

    @property
    def parameters(self) -> list[Tensor]:
        """The optimizer's parameters that have a gradient."""
        return [p for group in self.optimizer.param_groups for p in group["params"] if p.grad is not None]

    @property
    def gradients(self) -> list[Tensor]:
        """Their gradients."""
        groups = self.optimizer.param_groups
        return [gradient for group in groups for p in group["params"] if (gradient := p.grad) is not None]


Rule = Callable[[GradientStep], None]


class GradientOrder:
    """The phases with the rules that plugins add to them.

    Args:
        rules: Phase -> rules, called in the order given.
        of_16_bits: Whether gradients are, so that their norm must be taken in float32.

    Raises:
        ValueError: A rule in a phase that takes none, or a phase that does not exist.
    """

    def __init__(self, rules: Mapping[str, Iterable[Rule]] | None = None, *, of_16_bits: bool = False) -> None:
        self._of_16_bits = of_16_bits
        self.rules: dict[GradientPhase, tuple[Rule, ...]] = dict.fromkeys(GradientPhase, ())
        for phase, added in (rules or {}).items():
            for rule in added:
                self.add(phase, rule)

    def add(self, phase: str, rule: Rule) -> None:
        """Let a rule run in a phase, after those that are there; nothing where it is there already.

        Raises:
            ValueError: The phase takes no rules, or does not exist.
        """
        if GradientPhase(phase) in OURS_ALONE:
            raise ValueError(f"the gradient phase {phase!r} takes no rules; use {', '.join(open_phases())}")
        if rule not in self.rules[GradientPhase(phase)]:
            self.rules[GradientPhase(phase)] += (rule,)

    def run(self, phase: GradientPhase, step: GradientStep) -> None:
        """Call the rules of one phase."""
        for rule in self.rules[phase]:
            rule(step)

    def before_hooks(self, step: GradientStep, scaler: torch.amp.GradScaler | None) -> None:
        """From the end of the backward pass to Lightning's `on_before_optimizer_step`."""
        self.run(GradientPhase.SYNC, step)
        if scaler is not None:
            scaler.unscale_(step.optimizer)
        window: LossWindow | None = getattr(step.module, "loss_window", None)
        if window is not None and window.is_open:
            step.factor, step.count = window.close(step.module)
            if step.factor is not None:
                _scale(step.gradients, step.factor)
        self.run(GradientPhase.PENALTIES, step)

    def check(self, step: GradientStep, scaler: torch.amp.GradScaler | None) -> None:
        """The phase `finite`: take the norm; without a scaler or a rule that decides, what is not finite ends the run.

        Raises:
            NonFiniteError: The message names the step and the first parameters.
            CountError: The counts of the window were not those declared.
        """
        step.norm = total_norm(step.gradients, of_16_bits=self._of_16_bits)
        step.finite = math.isfinite(step.norm.item())
        window: LossWindow | None = getattr(step.module, "loss_window", None)
        if window is not None:
            window.verify()  # here, as the norm has just waited for the device
        step.skip = scaler is not None and not step.finite
        self.run(GradientPhase.FINITE, step)
        if not step.finite and not step.skip:
            raise NonFiniteError(_named(step))

    def after_step(self, step: GradientStep) -> None:
        """The phase `ema`."""
        if not step.skip:
            self.run(GradientPhase.EMA, step)


def open_phases() -> list[str]:
    """The phases that take rules."""
    return [phase.value for phase in GradientPhase if phase not in OURS_ALONE]


def total_norm(gradients: list[Tensor], *, of_16_bits: bool = False) -> Tensor:
    """The 2-norm of all gradients as one vector: a scalar, whole also where gradients are sharded.

    Args:
        gradients: Of any shapes.
        of_16_bits: Take the norm in float32: in float16 it overflows at 65,504.
    """
    import torch  # here, so that `explain` can read the phases without it

    from trustformers_pl.shards import are_sharded, norm_of_shards

    if not gradients:
        return torch.zeros(())
    if not of_16_bits and of_one_kind(gradients):
        with torch.no_grad():  # as torch.nn.utils.get_total_norm, without its sorting by device and type
            whole: Tensor = torch.linalg.vector_norm(torch.stack(torch._foreach_norm(gradients)))
            return whole
    if are_sharded(gradients):
        return norm_of_shards(gradients)
    if of_16_bits:
        gradients = [torch.linalg.vector_norm(gradient, dtype=torch.float32) for gradient in gradients]
    return torch.nn.utils.get_total_norm(gradients)


def of_one_kind(gradients: list[Tensor]) -> bool:
    """Whether all are plain tensors of one dtype, on one device that works on lists of tensors."""
    from torch import Tensor

    device, dtype = gradients[0].device, gradients[0].dtype
    return device.type in LISTS_OF_TENSORS and all(
        type(one) is Tensor and one.dtype is dtype and one.device == device for one in gradients
    )


def clip_by_norm(parameters: list[Tensor], highest: float, norm: Tensor) -> None:
    """Scale gradients in place by `highest / (norm + 1e-6)`, where that is below 1.

    The numbers are those of `torch.nn.utils.clip_grads_with_norm_`, which sorts gradients by device and type first. Of
    DTensors each rank scales its own part.

    Args:
        parameters: With gradients.
        highest: What the norm of all of them shall at most be.
        norm: Their 2-norm as one vector, as `total_norm` gives it.
    """
    import torch

    from trustformers_pl.shards import are_sharded

    gradients = [parameter.grad for parameter in parameters if parameter.grad is not None]
    if not (gradients and of_one_kind(gradients)) and not are_sharded(gradients):
        torch.nn.utils.clip_grads_with_norm_(parameters, highest, norm)
        return
    _scale(gradients, torch.clamp(highest / (norm + 1e-6), max=1.0))


def _scale(gradients: list[Tensor], factor: Tensor) -> None:
    """Multiply gradients in place by a scalar."""
    import torch

    from trustformers_pl.shards import local

    with torch.no_grad():
        torch._foreach_mul_([local(gradient) for gradient in gradients], factor)


def _named(step: GradientStep) -> str:
    from trustformers_pl.shards import trained

    pairs = trained(step.module).items()
    names = [n for n, p in pairs if p.grad is not None and not bool(p.grad.isfinite().all())]
    shown = ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")
    number = step.module.trainer.global_step + 1
    return (
        f"optimizer step {number}: the gradients of {shown or 'all parameters together'} are not finite; the "
        "weights are untouched; lower the learning rate or clip gradients, and go on from the last checkpoint"
    )
