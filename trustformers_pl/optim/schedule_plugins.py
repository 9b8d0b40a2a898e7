"""What the section `schedule` can be."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from trustformers_pl.hookspecs import hookimpl
from trustformers_pl.optim.options import FloorConfig, ScheduleConfig
from trustformers_pl.parts import Name, Part, part
from trustformers_pl.plugins import Plugin
from trustformers_pl.traits import Slot, Trait, Traits

if TYPE_CHECKING:
    from collections.abc import Mapping

    from trustformers_pl.plan import Plan
    from trustformers_pl.run import Run

COMMON = frozenset(field.name for field in dataclasses.fields(ScheduleConfig))


class SchedulePlugin(Plugin):
    """A schedule that `lr_lambda` knows by the plugin's name, and whose Config has the arguments of its decay."""

    config: ScheduleConfig

    @classmethod
    def traits(cls, config: ScheduleConfig) -> Traits:
        """It fills the schedule slot of an optimizer that this run builds or was given."""
        del config
        return Traits(claims=frozenset({Slot.SCHEDULE}), requires=frozenset({Trait.OPTIMIZER}))

    @hookimpl
    def lr_schedule(self, plan: Plan) -> Part:
        """Torch's `LambdaLR` with the factor of the peak rate at each step."""
        del plan
        config = self.config
        warmup: dict[str, Any] = (
            {"warmup_ratio": config.warmup_ratio} if config.warmup_ratio else {"warmup_steps": config.warmup_steps}
        )
        shape = {f.name: getattr(config, f.name) for f in dataclasses.fields(config) if f.name not in COMMON}
        factor = part(
            "trustformers_pl.optim:lr_lambda",
            self.name.partition(".")[2],
            **warmup,
            total_steps=Name("total_steps") if config.num_training_steps is None else config.num_training_steps,
            **shape,
        )
        return part("torch.optim.lr_scheduler:LambdaLR", Name("optimizer"), factor)

    @hookimpl
    def probe(self, run: Run) -> str | None:
        """The schedule, and how often it was stepped."""
        names = [(type(c.scheduler).__name__, c.scheduler.last_epoch) for c in run.trainer.lr_scheduler_configs]
        return f"{names[0][0]} stepped {names[0][1]} times" if names and names[0][1] else None


class ConstantPlugin(SchedulePlugin):
    """Linear warm-up, then the peak."""

    @dataclass(frozen=True, kw_only=True)
    class Config(ScheduleConfig):
        """The `schedule` section with `name: constant`."""


class LinearPlugin(SchedulePlugin):
    """Linear warm-up, then a straight line from the peak to a floor, as in BERT."""

    @dataclass(frozen=True, kw_only=True)
    class Config(FloorConfig):
        """The `schedule` section with `name: linear`."""


class CosinePlugin(SchedulePlugin):
    """Linear warm-up, then half a cosine from the peak to a floor (Loshchilov & Hutter 2017)."""

    @dataclass(frozen=True, kw_only=True)
    class Config(FloorConfig):
        """The `schedule` section with `name: cosine`."""


class PolynomialPlugin(SchedulePlugin):
    """Linear warm-up, then a power of the way that is left, from the peak to a floor."""

    example: ClassVar[Mapping[str, Any]] = MappingProxyType({"power": 2.0})

    @dataclass(frozen=True, kw_only=True)
    class Config(FloorConfig):
        """The `schedule` section with `name: polynomial`."""

        power: float = 1.0
        """Of the fraction of steps that are left; 1 is a straight line."""

        def __post_init__(self) -> None:
            """Refuse what would rise."""
            super().__post_init__()
            if self.power < 0:
                raise ValueError(f"power must not be negative, but is {self.power}")


class ExponentialPlugin(SchedulePlugin):
    """Linear warm-up, then a constant factor at each step."""

    example: ClassVar[Mapping[str, Any]] = MappingProxyType({"gamma": 0.9})

    @dataclass(frozen=True, kw_only=True)
    class Config(ScheduleConfig):
        """The `schedule` section with `name: exponential`."""

        gamma: float
        """Factor of the rate at each optimizer step; 0.999 leaves 37 % after 1,000 steps."""

        def __post_init__(self) -> None:
            """Refuse what would rise, or be nothing at once."""
            super().__post_init__()
            if not 0 < self.gamma <= 1:
                raise ValueError(f"gamma must be above 0 and at most 1, but is {self.gamma}")


class StepPlugin(SchedulePlugin):
    """Linear warm-up, then a factor every so many steps."""

    example: ClassVar[Mapping[str, Any]] = MappingProxyType({"step_size": 2, "gamma": 0.5})

    @dataclass(frozen=True, kw_only=True)
    class Config(ScheduleConfig):
        """The `schedule` section with `name: step`."""

        step_size: int
        """Optimizer steps between two reductions, counted from the end of the warm-up."""
        gamma: float = 0.1
        """Factor of the rate at each."""

        def __post_init__(self) -> None:
            """Refuse what would rise, or never come."""
            super().__post_init__()
            if self.step_size < 1:
                raise ValueError(f"step_size must be at least 1, but is {self.step_size}")
            if not 0 < self.gamma <= 1:
                raise ValueError(f"gamma must be above 0 and at most 1, but is {self.gamma}")


class WSDPlugin(SchedulePlugin):
    """Warm-up, stable, decay (Hu et al. 2024): the peak for as long as one likes, then a short way down."""

    @dataclass(frozen=True, kw_only=True)
    class Config(FloorConfig):
        """The `schedule` section with `name: wsd`."""

        decay_steps: int | None = None
        """Optimizer steps of the decay at the end; by default `decay_ratio` says how many."""
        decay_ratio: float = 0.2
        """The same as a fraction of the steps after the warm-up, rounded up."""
        decay_type: Literal["linear", "cosine", "1-sqrt"] = "linear"
        """Form of the decay; `1-sqrt` (Hägele et al. 2024) falls fast at first."""

        def __post_init__(self) -> None:
            """Refuse what has no meaning."""
            super().__post_init__()
            if self.decay_steps is not None and self.decay_steps < 0:
                raise ValueError(f"decay_steps must not be negative, but is {self.decay_steps}")
            if not 0 <= self.decay_ratio <= 1:
                raise ValueError(f"decay_ratio must be in [0, 1], but is {self.decay_ratio}")
