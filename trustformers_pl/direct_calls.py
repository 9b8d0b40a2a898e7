"""Which of a step's calls reach their end without Lightning's relays: those that nobody on the way has overridden."""

from __future__ import annotations

from typing import TYPE_CHECKING

from lightning import LightningModule
from lightning.pytorch.core.optimizer import LightningOptimizer, do_nothing_closure
from lightning.pytorch.strategies import Strategy
from torch.optim import Optimizer

from trustformers_pl.step_hooks import overrides

if TYPE_CHECKING:
    from lightning import Trainer

# Each call, with the methods of the module and of the strategy that it passes through.
RELAYS: dict[str, tuple[tuple[str, ...], tuple[str, ...]]] = {
    "optimizer_step": (("optimizer_step",), ("optimizer_step",)),
    "optimizer_zero_grad": (("optimizer_zero_grad",), ()),
    "backward": (("backward",), ("backward", "pre_backward", "post_backward")),
    "training_step": ((), ("training_step", "post_training_step")),
}


def direct_calls(trainer: Trainer) -> frozenset[str]:
    """The calls among `RELAYS` whose relays do in this run what Lightning's own do.

    Args:
        trainer: That is fitting, with its optimizers.

    Returns:
        Names of calls.
    """
    module, strategy = trainer.lightning_module, trainer.strategy
    direct = {
        name
        for name, (of_module, of_strategy) in RELAYS.items()
        if not any(overrides(module, method, LightningModule) for method in of_module)
        and not any(overrides(strategy, method, Strategy) for method in of_strategy)
    }
    if not _is_plain(strategy._lightning_optimizers[0]):
        direct.discard("optimizer_step")
    if overrides(strategy._optimizers[0], "zero_grad", Optimizer):
        direct.discard("optimizer_zero_grad")
    if strategy.model is not module:  # a wrapper has its forward pass around the step
        direct.discard("training_step")
    return frozenset(direct)


def _is_plain(optimizer: LightningOptimizer) -> bool:
    """Whether a step of it is the strategy's, with nothing before or after."""
    around = (optimizer._on_before_step, optimizer._on_after_step)
    return type(optimizer).step is LightningOptimizer.step and all(hook is do_nothing_closure for hook in around)
