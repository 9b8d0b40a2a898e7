"""What EWC, SI and MAS share: a quadratic around what earlier tasks left, in the gradient phase `penalties`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from lightning.pytorch import Callback
from typing_extensions import override

from trustformers_pl.continual.held import HeldWeights
from trustformers_pl.continual.quadratic import Quadratic, merged
from trustformers_pl.continual.tasks import tasks_of
from trustformers_pl.gathering import place_like
from trustformers_pl.gradients import GradientPhase
from trustformers_pl.precision_order import gradient_order
from trustformers_pl.shards import local, trained
from trustformers_pl.stateful import Scope, State

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from lightning.pytorch import LightningModule, Trainer
    from torch import Tensor

    from trustformers_pl.gradients import GradientStep

SAMPLES = 2000
"""Of a task, for importances, by default: the mean of the squares of Gaussian gradients is then known to 3 %."""


class ImportancePenalty(Callback):
    """Holds each weight near where earlier tasks left it, as firmly as it was important to them.

    Importances of all tasks are one quadratic (see `trustformers_pl.continual.quadratic`), which lies where the weights
    lie, sharded like them. Its step is taken implicitly, so that no strength makes training unstable (see
    `trustformers_pl.continual.implicit`). A weight without a gradient is left alone.

    Args:
        strength: Factor of the quadratic, as `penalty` has it.
        decay: What a new task leaves of the importances of earlier ones.
        recentred: Put the centre at the newest task's weights, or where the tasks' own quadratics add up to.

    Attributes:
        strength: As given.
        absorbed: How many tasks are in it.
        added: Optimizer steps that the penalty was part of.
    """

    def __init__(self, strength: float, *, decay: float = 1.0, recentred: bool = True) -> None:
        self.strength, self.decay, self.recentred = strength, decay, recentred
        self.absorbed = self.added = 0
        self._rehearsed = False
        self._weights: dict[str, Tensor] = {}
        self._stored: dict[str, dict[str, Tensor]] | None = None
        self._constant = torch.zeros((), dtype=torch.double)
        self._curvature: dict[str, Tensor] = {}
        self._centre: dict[str, Tensor] = {}
        self._rules: dict[tuple[int, ...], HeldWeights] = {}

    @override
    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Join the gradient order.

        Raises:
            RefusedError: The Trainer has no gradient order, or nothing says where tasks end.
        """
        if stage == "fit":
            tasks_of(trainer, type(self).__name__)
            gradient_order(trainer, type(self).__name__).add(GradientPhase.PENALTIES, self.add)

    @override
    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Lay out what was stored as the weights are."""
        self._weights = {n: p for n, p in trained(pl_module).items() if p.requires_grad and p.is_floating_point()}
        self._lay_out()
        self._rehearsed = self.absorbed > 0

    @override
    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Before the first step, when every callback is ready for it, rehearse.

        Raises:
            RefusedError: The model or the data cannot give what is taken when a task ends.
        """
        if not self._rehearsed:
            self._rehearsed = True
            self.rehearse(trainer, pl_module)

    def rehearse(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Do with one sample what is done when a task ends: what cannot be done ends the run now."""

    def on_grown(self, trainer: Trainer, pl_module: LightningModule, names: tuple[str, ...]) -> None:
        """New weights were not important to earlier tasks; frozen ones need no holding."""
        del trainer, names
        self._weights = {n: p for n, p in trained(pl_module).items() if p.requires_grad and p.is_floating_point()}
        if self._curvature:
            new = {n: torch.zeros_like(p.detach(), dtype=_wide(p)) for n, p in self._weights.items()}
            self._curvature = {name: self._curvature.get(name, zeros) for name, zeros in new.items()}
            self._centre = {
                name: self._centre[name]
                if name in self._centre
                else self._weights[name].detach().to(zeros.dtype, copy=True)
                for name, zeros in new.items()
            }
        self._rules = {}

    @torch.no_grad()
    def add(self, step: GradientStep) -> None:
        """Make the penalty part of one optimizer step."""
        if not self._curvature:
            return
        self.added += 1
        for group in step.optimizer.param_groups:
            chosen = [p for p in group["params"] if p.grad is not None]
            rule = self._rules.get(key := tuple(map(id, chosen)))
            if rule is None:
                rule = self._rules[key] = self._rule_of(chosen)
            rule.add(float(group["lr"]))

    def _rule_of(self, chosen: Sequence[Tensor]) -> HeldWeights:
        names = {id(weight): name for name, weight in self._weights.items() if name in self._curvature}
        held = {names[id(p)]: p for p in chosen if id(p) in names}
        curvature, centre = ([local(of[name]) for name in held] for of in (self._curvature, self._centre))
        return HeldWeights([*held.values()], Quadratic(curvature, centre, self._constant), self.strength)

    @torch.no_grad()
    def absorb(self, importance: Mapping[str, Tensor]) -> None:
        """Take one more task in: its importances around the weights of now.

        Args:
            importance: Name -> at least float32, not negative, whole and equal on all ranks, or laid out as its weight.
        """
        names = [name for name in self._weights if name in importance]
        curvature = [_as(importance[name], self._weights[name].detach()) for name in names]
        new = Quadratic.at([self._weights[name] for name in names], curvature)
        if self._curvature:
            old = Quadratic(
                [self._curvature[name] for name in names], [self._centre[name] for name in names], self._constant
            )
            new = merged(old, new, decay=self.decay, recentred=self.recentred)
        self._curvature = dict(zip(names, new.curvature, strict=True))
        self._centre = dict(zip(names, new.centre, strict=True))
        self._constant = new.constant
        self._rules = {}
        self.absorbed += 1

    @property
    def curvature(self) -> Mapping[str, Tensor]:
        """Name -> the importances of all tasks together; empty before the first has ended."""
        return self._curvature

    def state(self) -> State:
        """The quadratic, and what was counted."""
        counted = {"absorbed": self.absorbed, "added": self.added, "constant": self._constant.clone()}
        return State({**counted, "curvature": dict(self._curvature), "centre": dict(self._centre)}, scope=Scope.SHARDED)

    def load_state(self, state: State) -> None:
        """Go on from it; in the middle of a training (a roll-back) it is laid out at once."""
        value: Mapping[str, Any] = state.value
        self.absorbed, self.added, self._constant = value["absorbed"], value["added"], value["constant"].double().cpu()
        self._stored = {"curvature": value["curvature"], "centre": value["centre"]}
        if self._weights:
            self._lay_out()

    def _lay_out(self) -> None:
        if self._stored is None:
            return
        stored, self._stored, self._rules = self._stored, None, {}
        self._curvature, self._centre = (
            {name: place_like(tensor, self._weights[name].detach()) for name, tensor in stored[key].items()}
            for key in ("curvature", "centre")
        )


def _wide(weight: Tensor) -> torch.dtype:
    return torch.promote_types(weight.dtype, torch.float32)


def _as(value: Tensor, weight: Tensor) -> Tensor:
    return value if type(value) is type(weight) else place_like(value, weight)
