"""An exponential moving average of the weights, which evaluations use."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from lightning.pytorch import Callback
from typing_extensions import override

from trustformers_pl.gathering import place_like
from trustformers_pl.gradients import GradientPhase
from trustformers_pl.precision_order import gradient_order
from trustformers_pl.shards import copy_into, local, trained
from trustformers_pl.stateful import Scope, State

if TYPE_CHECKING:
    from lightning.pytorch import LightningModule, Trainer
    from torch import Tensor, nn

    from trustformers_pl.gradients import GradientStep


class EMA(Callback):
    r"""Keeps :math:`a \leftarrow d\,a + (1 - d)\,w` of all trained weights :math:`w`, and evaluates with it.

    Polyak & Juditsky 1992 for averaging; the exponential form with a decay that warms up, :math:`\min(d, (1 + t) / (10
    + t))` at update :math:`t`, is that of TensorFlow's `ExponentialMovingAverage`. Updated after each optimizer step
    that was taken, not after skipped ones. Buffers (the statistics of batch normalization) are those of the model.

    The averages lie where their weights lie, sharded like them. Checkpoints hold the model's own weights, and the
    averages as this callback's state; validation, test and prediction use the averages.

    In a stock Trainer: `Trainer(callbacks=[EMA(0.999)], plugins=[OrderedPrecision()])`.

    Args:
        decay: d; an average over about 1 / (1 - d) steps.
        warmup: Let the decay grow from 0.1, so that the first weights are forgotten.
        start_step: Optimizer steps before averaging begins; until then the average is the weights.
        every_n_steps: Optimizer steps between updates.
        evaluate: Whether evaluations use the averages.

    Attributes:
        updates: So far.
        averages: Name of parameter -> its average.
    """

    evaluates = True  # its state is given back before an evaluation of a checkpoint, too

    def __init__(
        self,
        decay: float = 0.999,
        *,
        warmup: bool = True,
        start_step: int = 0,
        every_n_steps: int = 1,
        evaluate: bool = True,
    ) -> None:
        self.decay, self.warmup = decay, warmup
        self.start_step, self.every_n_steps, self.evaluate = start_step, every_n_steps, evaluate
        self.updates = 0
        self.averages: dict[str, Tensor] = {}
        self._weights: list[Tensor] = []
        self._set_aside: list[Tensor] = []

    @override
    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Join the gradient order."""
        if stage == "fit":
            gradient_order(trainer, type(self).__name__).add(GradientPhase.EMA, self.update)

    @override
    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Start from the weights, or from the averages of the checkpoint."""
        named = {name: p for name, p in trained(pl_module).items() if p.requires_grad and p.is_floating_point()}
        stored = self.averages
        self.averages = {
            name: place_like(stored[name], p.detach()) if name in stored else p.detach().clone()
            for name, p in named.items()
        }
        self._weights = list(named.values())

    def on_grown(self, trainer: Trainer, pl_module: LightningModule, names: tuple[str, ...]) -> None:
        """New weights begin as their own averages; of frozen ones the average ends, and evaluations use themselves."""
        del names
        self.on_train_start(trainer, pl_module)

    @torch.no_grad()
    def update(self, step: GradientStep) -> None:
        """Take one step's weights in."""
        done = step.module.trainer.global_step + 1
        if done % self.every_n_steps:
            return
        averages = [local(average) for average in self.averages.values()]
        weights: list[Tensor] = [local(weight).detach() for weight in self._weights]
        if done <= self.start_step:
            torch._foreach_copy_(averages, weights)
        else:
            torch._foreach_lerp_(averages, weights, 1 - self.next_decay)
            self.updates += 1

    @property
    def next_decay(self) -> float:
        """The decay of the update that comes next."""
        return min(self.decay, (1 + self.updates) / (10 + self.updates)) if self.warmup else self.decay

    @torch.no_grad()
    def put_into(self, module: nn.Module) -> None:
        """Let a module have the averages as its weights.

        Args:
            module: With the parameters that are averaged; others stay.
        """
        for name, weight in module.named_parameters():
            if name in self.averages:
                copy_into(weight, self.averages[name])

    @torch.no_grad()
    def _begin(self, trainer: Trainer, pl_module: LightningModule) -> None:
        del trainer
        if self.evaluate and self.averages and not self._set_aside:
            self._set_aside = [parameter.detach().clone() for parameter in pl_module.parameters()]
            self.put_into(pl_module)

    @torch.no_grad()
    def _end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        del trainer
        for parameter, own in zip(pl_module.parameters(), self._set_aside, strict=False):
            parameter.detach().copy_(own)
        self._set_aside = []

    on_validation_start = on_test_start = on_predict_start = _begin
    on_validation_end = on_test_end = on_predict_end = _end

    @override
    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        """Give the model its own weights back."""
        self._end(trainer, pl_module)

    def state(self) -> State:
        """The averages."""
        return State({"updates": self.updates, "averages": dict(self.averages)}, scope=Scope.SHARDED)

    def load_state(self, state: State) -> None:
        """Go on from them; in the middle of a training (a roll-back) they are laid out as they were."""
        self.updates = state.value["updates"]
        now, stored = self.averages, state.value["averages"]
        self.averages = {name: place_like(a, now[name]) if name in now else a for name, a in stored.items()}
