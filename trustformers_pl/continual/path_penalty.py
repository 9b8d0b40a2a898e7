"""Synaptic intelligence as a feature: weights whose movement lowered the loss of earlier tasks are held."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from typing_extensions import override

from trustformers_pl.continual.importance import ImportancePenalty
from trustformers_pl.continual.si import PathIntegral
from trustformers_pl.gathering import place_like
from trustformers_pl.gradients import GradientPhase
from trustformers_pl.precision_order import gradient_order
from trustformers_pl.stateful import State

if TYPE_CHECKING:
    from collections.abc import Mapping

    from lightning.pytorch import LightningModule, Trainer
    from torch import Tensor

    from trustformers_pl.gradients import GradientStep

PARTS = ("start", "omega", "before")


class SI(ImportancePenalty):
    """Adds strength sum_i Omega_i (w_i - a_i)^2, Omega collected while earlier tasks were trained.

    Zenke et al. 2017, "Continual Learning Through Synaptic Intelligence", equations 3 to 5; a are the newest task's
    weights. No pass over the data is needed; three numbers a weight are kept beside the quadratic.

    In a stock Trainer: `Trainer(callbacks=[Tasks(), SI(1.0)], plugins=[OrderedPrecision()])`; see `Tasks`. What adds
    to gradients before it counts as a part of the loss: let it be the first of several penalties.

    Args:
        strength: c.
        damping: xi.
    """

    def __init__(self, strength: float = 1.0, *, damping: float = 0.1) -> None:
        super().__init__(2 * strength)
        self.damping = damping
        self._path: PathIntegral | None = None
        self._stored_path: dict[str, Mapping[str, Tensor]] | None = None
        self._of_the_loss: list[Tensor] = []

    @override
    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Join the gradient order, before the penalty and after the step."""
        if stage == "fit":
            order = gradient_order(trainer, type(self).__name__)
            order.add(GradientPhase.PENALTIES, self.remember)
            order.add(GradientPhase.EMA, self.follow)
        super().setup(trainer, pl_module, stage)

    def on_task_start(self, trainer: Trainer, pl_module: LightningModule, task: int) -> None:
        """The way of the weights begins here."""
        del trainer, pl_module, task
        self._path = PathIntegral.at([*self._weights.values()])

    @override
    def on_grown(self, trainer: Trainer, pl_module: LightningModule, names: tuple[str, ...]) -> None:
        """The way of new weights begins now, that of frozen ones ends."""
        way = self._way()
        super().on_grown(trainer, pl_module, names)
        if self._path is not None:
            new = PathIntegral.at([*self._weights.values()])
            for key, of in zip(PARTS, (new.start, new.omega, new.before), strict=True):
                of[:] = [way[key].get(name, value) for name, value in zip(self._weights, of, strict=True)]
            self._path = new

    def on_task_end(self, trainer: Trainer, pl_module: LightningModule, task: int) -> None:
        """Turn the way into importances."""
        del trainer, pl_module, task
        assert self._path is not None, "on_task_start comes first"
        found = self._path.importance([*self._weights.values()], damping=self.damping)
        self.absorb(dict(zip(self._weights, found, strict=True)))

    @torch.no_grad()
    def remember(self, step: GradientStep) -> None:
        """Copy the gradients of the loss alone."""
        del step
        self._of_the_loss = [
            torch.zeros_like(w) if w.grad is None else w.grad.detach().clone() for w in self._weights.values()
        ]

    def follow(self, step: GradientStep) -> None:
        """Take one step's movement in."""
        del step
        if self._path is not None and self._of_the_loss:
            self._path.add_(self._of_the_loss, [*self._weights.values()])
        self._of_the_loss = []

    @override
    def state(self) -> State:
        """The quadratic, and the way so far."""
        inherited = super().state()
        return State({**inherited.value, "path": self._way()}, scope=inherited.scope)

    def _way(self) -> dict[str, dict[str, Tensor]]:
        """The lists of the path by the weights' names; empty where none has begun."""
        path = self._path
        if path is None:
            return {}
        lists = (path.start, path.omega, path.before)
        return {key: dict(zip(self._weights, of, strict=True)) for key, of in zip(PARTS, lists, strict=True)}

    @override
    def load_state(self, state: State) -> None:
        """Go on from it."""
        self._stored_path = dict(state.value["path"])
        super().load_state(state)

    @override
    def _lay_out(self) -> None:
        super()._lay_out()
        if self._stored_path:
            lists = [
                [place_like(self._stored_path[key][name], weight.detach()) for name, weight in self._weights.items()]
                for key in PARTS
            ]
            self._path = PathIntegral(*lists)
        self._stored_path = None
