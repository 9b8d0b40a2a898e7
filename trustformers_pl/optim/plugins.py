"""The sections `optimizer` and `schedule`, and what they can be."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from trustformers_pl.hookspecs import hookimpl
from trustformers_pl.parts import Name, Part, part
from trustformers_pl.plugins import Plugin
from trustformers_pl.traits import Slot, Trait, Traits

if TYPE_CHECKING:
    from trustformers_pl.plan import Plan
    from trustformers_pl.run import Run


class AdamWPlugin(Plugin):
    """AdamW: Adam with decoupled weight decay (Loshchilov & Hutter 2019), the default choice for transformers."""

    @dataclass(frozen=True, kw_only=True)
    class Config:
        """The `optimizer` section with `name: adamw`."""

        lr: float = 1e-3
        """Peak learning rate; the schedule multiplies it. 1e-3 suits small models trained from scratch."""
        betas: tuple[float, float] = (0.9, 0.999)
        """Decay rates of the first and second moments, as in the paper."""
        eps: float = 1e-8
        """Added to the root of the second moment, as in the paper."""
        weight_decay: float = 0.01
        """Decay per step, times the learning rate, of matrices; norms, biases and other vectors are not decayed."""

        def __post_init__(self) -> None:
            """Refuse what no step can use."""
            if self.lr < 0 or self.eps < 0 or self.weight_decay < 0:
                raise ValueError("lr, eps and weight_decay must not be negative")
            if not all(0 <= beta < 1 for beta in self.betas):
                raise ValueError(f"betas must be in [0, 1), not {self.betas}")

    config: Config

    @classmethod
    def traits(cls, config: Config) -> Traits:
        """It fills the optimizer slot."""
        del config
        return Traits(claims=frozenset({Slot.OPTIMIZER}), provides=frozenset({Trait.OPTIMIZER}))

    @hookimpl
    def optimizer(self, plan: Plan) -> Part:
        """`AdamW` over two groups: matrices with weight decay, everything else without."""
        del plan
        config = self.config
        groups = part("trustformers_pl.optim:decay_groups", Name("module"), weight_decay=config.weight_decay)
        return part("trustformers_pl.optim:AdamW", groups, lr=config.lr, betas=config.betas, eps=config.eps)

    @hookimpl
    def probe(self, run: Run) -> str | None:
        """The optimizer that stepped."""
        names = [type(optimizer).__name__ for optimizer in run.trainer.optimizers]
        return f"optimizer: {names[0]}" if names == ["AdamW"] else None


class CosinePlugin(Plugin):
    """Linear warm-up, then half a cosine from the peak to a floor (Loshchilov & Hutter 2017)."""

    @dataclass(frozen=True, kw_only=True)
    class Config:
        """The `schedule` section with `name: cosine`."""

        warmup_steps: int = 0
        """Optimizer steps in which the rate rises linearly from 0 to the peak."""
        min_ratio: float = 0.0
        """The floor, as a fraction of the peak; the rate stays there past the last step."""

        def __post_init__(self) -> None:
            """Refuse what has no meaning."""
            if self.warmup_steps < 0:
                raise ValueError(f"warmup_steps must not be negative, but is {self.warmup_steps}")
            if not 0 <= self.min_ratio <= 1:
                raise ValueError(f"min_ratio must be in [0, 1], but is {self.min_ratio}")

    config: Config

    @classmethod
    def traits(cls, config: Config) -> Traits:
        """It fills the schedule slot of an optimizer that this run builds or was given."""
        del config
        return Traits(claims=frozenset({Slot.SCHEDULE}), requires=frozenset({Trait.OPTIMIZER}))

    @hookimpl
    def lr_schedule(self, plan: Plan) -> Part:
        """Torch's `LambdaLR` with the factor of the peak rate at each step."""
        del plan
        config = self.config
        factor = part(
            "trustformers_pl.optim:lr_lambda",
            "cosine",
            warmup_steps=config.warmup_steps,
            total_steps=Name("total_steps"),
            min_ratio=config.min_ratio,
        )
        return part("torch.optim.lr_scheduler:LambdaLR", Name("optimizer"), factor)

    @hookimpl
    def probe(self, run: Run) -> str | None:
        """The schedule, and how often it was stepped."""
        names = [(type(c.scheduler).__name__, c.scheduler.last_epoch) for c in run.trainer.lr_scheduler_configs]
        return f"{names[0][0]} stepped {names[0][1]} times" if names and names[0][1] else None
