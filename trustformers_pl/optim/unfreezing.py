"""Gradual unfreezing: layers that begin to train later than the others."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from lightning import Callback
from typing_extensions import override

from trustformers_pl.errors import RefusedError
from trustformers_pl.optim.patterns import matching, refuse_unmatched
from trustformers_pl.shards import trained
from trustformers_pl.stateful import State

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from lightning import LightningModule, Trainer
    from torch import Tensor
    from torch.optim import Optimizer


class GradualUnfreezing(Callback):
    """Holds parameters until their step or epoch comes (Howard & Ruder 2018, "ULMFiT", section 3.3).

    A held parameter's gradient is taken away before gradients are clipped, so that neither the norm, nor the optimizer,
    its state or its weight decay know of it. Which parameters are held follows from the step alone: a resumed run goes
    on exactly, and any strategy's wrapper sees the same parameters from the first step on. The backward pass still
    computes the gradients; what shall never train is cheaper with `freeze`.

    Args:
        stages: Each with `match`, a pattern of names of parameters, and `step` (optimizer steps) or `epoch` (from 0):
            the first one in which they train. Of several that a name fits the last counts.
    """

    def __init__(self, stages: Sequence[Mapping[str, Any]]) -> None:
        self.stages = [dict(stage) for stage in stages]
        self.held = 0
        """Gradients that were taken away so far."""
        self._stage_of: list[tuple[Tensor, dict[str, Any]]] = []

    @override
    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Find the parameters.

        Raises:
            RefusedError: A pattern fits none, or nothing would train at first.
        """
        del trainer
        refuse_unmatched(pl_module, [stage["match"] for stage in self.stages], "unfreeze.stages")
        self._stage_of = []
        for name, parameter in trained(pl_module).items():
            fitting = [stage for stage in self.stages if matching(name, [stage["match"]])]
            if fitting and parameter.requires_grad:
                self._stage_of.append((parameter, fitting[-1]))
        later = {id(parameter) for parameter, stage in self._stage_of if not _has_begun(stage, 0, 0)}
        if all(id(parameter) in later for parameter in trained(pl_module).values() if parameter.requires_grad):
            raise RefusedError("unfreeze.stages: nothing would train at step 0; leave out what shall train first")

    def on_grown(self, trainer: Trainer, pl_module: LightningModule, names: tuple[str, ...]) -> None:
        """Look for what there is to hold among the new parameters."""
        del names
        self.on_fit_start(trainer, pl_module)

    @override
    def on_before_optimizer_step(self, trainer: Trainer, pl_module: LightningModule, optimizer: Optimizer) -> None:
        """Take away the gradients of what is held."""
        del pl_module, optimizer
        for parameter, stage in self._stage_of:
            if parameter.grad is not None and not _has_begun(stage, trainer.global_step, trainer.current_epoch):
                parameter.grad = None
                self.held += 1

    def state(self) -> State:
        """How many gradients were taken away: for the run's record, not for what is held."""
        return State({"held": self.held})

    def load_state(self, state: State) -> None:
        """Go on counting."""
        self.held = state.value["held"]


def _has_begun(stage: Mapping[str, Any], step: int, epoch: int) -> bool:
    return bool(step >= stage["step"] if "step" in stage else epoch >= stage["epoch"])
