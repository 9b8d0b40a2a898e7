"""What the section `optimizer` can be."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, ClassVar

from trustformers_pl.hookspecs import hookimpl
from trustformers_pl.optim.options import OptimizerConfig, check_betas
from trustformers_pl.parts import Name, Part, part
from trustformers_pl.phases import ModulePhase
from trustformers_pl.plugins import Plugin
from trustformers_pl.traits import Slot, Trait, Traits

if TYPE_CHECKING:
    from collections.abc import Mapping

    from trustformers_pl.plan import Plan
    from trustformers_pl.run import Run

# What makes the groups and not the optimizer.
OF_GROUPS = frozenset({"weight_decay", "groups", "layer_decay", "freeze"})


class OptimizerPlugin(Plugin):
    """An optimizer over groups of parameters.

    Attributes:
        optimizer_class: The name of the class in `trustformers_pl.optim`, whose arguments the Config has.
    """

    optimizer_class: ClassVar[str]
    config: OptimizerConfig

    @classmethod
    def traits(cls, config: OptimizerConfig) -> Traits:
        """It fills the optimizer slot."""
        del config
        return Traits(claims=frozenset({Slot.OPTIMIZER}), provides=frozenset({Trait.OPTIMIZER}))

    @hookimpl
    def modify_module(self, plan: Plan, phase: ModulePhase) -> list[Part] | None:
        """Freeze what is to be frozen, once the module has its final layers and before a strategy wraps it."""
        del plan
        if phase is not ModulePhase.SURGERY or not self.config.freeze:
            return None
        return [part("trustformers_pl.optim:Freeze", list(self.config.freeze))]

    @hookimpl
    def optimizer(self, plan: Plan) -> Part:
        """The optimizer: matrices with weight decay, everything else without, unless `groups` says otherwise."""
        del plan
        settings = {
            field.name: value
            for field in dataclasses.fields(self.config)
            if field.name not in OF_GROUPS
            and not ((value := getattr(self.config, field.name)) is field.default and isinstance(value, bool))
        }
        return part(f"trustformers_pl.optim:{self.optimizer_class}", self._groups(), **settings)

    def _groups(self) -> Part:
        config = self.config
        if not config.groups and config.layer_decay == 1.0:
            return part("trustformers_pl.optim:decay_groups", Name("module"), weight_decay=config.weight_decay)
        asked: dict[str, Any] = {"overrides": [dict(group) for group in config.groups]} if config.groups else {}
        if config.layer_decay != 1.0:
            asked["layer_decay"] = config.layer_decay
        return part(
            "trustformers_pl.optim:parameter_groups",
            Name("module"),
            lr=config.lr,
            weight_decay=config.weight_decay,
            **asked,
        )

    @hookimpl
    def probe(self, run: Run) -> str | None:
        """The optimizer that stepped."""
        names = [type(optimizer).__name__ for optimizer in run.trainer.optimizers]
        return f"optimizer: {names[0]}" if names == [self.optimizer_class] else None


class SGDPlugin(OptimizerPlugin):
    """SGD: gradient descent with classical or Nesterov momentum (Sutskever et al. 2013)."""

    optimizer_class = "SGD"
    example: ClassVar[Mapping[str, Any]] = MappingProxyType({"lr": 0.1, "momentum": 0.9})

    @dataclass(frozen=True, kw_only=True)
    class Config(OptimizerConfig):
        """The `optimizer` section with `name: sgd`."""

        lr: float = 0.1
        """Peak learning rate; the schedule multiplies it."""
        momentum: float = 0.0
        """How much of the last step's direction stays; 0 for none, 0.9 is usual."""
        dampening: float = 0.0
        """How much of a new gradient is kept out of the momentum."""
        nesterov: bool = False
        """Take the gradient as it would be one momentum step ahead."""

        def __post_init__(self) -> None:
            """Refuse what no step can use."""
            super().__post_init__()
            if self.momentum < 0:
                raise ValueError("momentum must not be negative")
            if self.nesterov and (self.momentum == 0 or self.dampening != 0):
                raise ValueError("nesterov needs momentum, and no dampening")


class AdamPlugin(OptimizerPlugin):
    """Adam (Kingma & Ba 2015), with weight decay as an L2 penalty in the gradient."""

    optimizer_class = "Adam"
    example: ClassVar[Mapping[str, Any]] = MappingProxyType({"lr": 0.01})

    @dataclass(frozen=True, kw_only=True)
    class Config(OptimizerConfig):
        """The `optimizer` section with `name: adam`."""

        betas: tuple[float, float] = (0.9, 0.999)
        """Decay rates of the first and second moments, as in the paper."""
        eps: float = 1e-8
        """Added to the root of the second moment, as in the paper."""

        def __post_init__(self) -> None:
            """Refuse what no step can use."""
            super().__post_init__()
            check_betas(self.eps, self.betas)


class AdamWPlugin(OptimizerPlugin):
    """AdamW: Adam with decoupled weight decay (Loshchilov & Hutter 2019), the default choice for transformers."""

    optimizer_class = "AdamW"

    @dataclass(frozen=True, kw_only=True)
    class Config(OptimizerConfig):
        """The `optimizer` section with `name: adamw`."""

        weight_decay: float = 0.01
        """Decay per step, times the learning rate, of matrices; norms, biases and other vectors are not decayed."""
        betas: tuple[float, float] = (0.9, 0.999)
        """Decay rates of the first and second moments, as in the paper."""
        eps: float = 1e-8
        """Added to the root of the second moment, as in the paper."""
        correct_bias: bool = True
        """Divide the moments by `1 - beta ** step`, as they start from zero; false as in the original BERT."""

        def __post_init__(self) -> None:
            """Refuse what no step can use."""
            super().__post_init__()
            check_betas(self.eps, self.betas)


class LAMBPlugin(OptimizerPlugin):
    """LAMB (You et al. 2020): Adam's direction, steps relative to each parameter's size; for very large batches."""

    optimizer_class = "LAMB"
    example: ClassVar[Mapping[str, Any]] = MappingProxyType({"lr": 0.01})

    @dataclass(frozen=True, kw_only=True)
    class Config(OptimizerConfig):
        """The `optimizer` section with `name: lamb`."""

        lr: float = 2e-3
        """Peak length of a step relative to that of the parameter; the schedule multiplies it."""
        weight_decay: float = 0.01
        """Of matrices, added to Adam's direction before its length is set; vectors are not decayed."""
        betas: tuple[float, float] = (0.9, 0.999)
        """Decay rates of the first and second moments, as in the paper."""
        eps: float = 1e-6
        """Added to the root of the second moment, as in the paper."""

        def __post_init__(self) -> None:
            """Refuse what no step can use."""
            super().__post_init__()
            check_betas(self.eps, self.betas)


class AdafactorPlugin(OptimizerPlugin):
    """Adafactor (Shazeer & Stern 2018): a second moment in a row and a column for each matrix; for little memory."""

    optimizer_class = "Adafactor"
    example: ClassVar[Mapping[str, Any]] = MappingProxyType({"lr": 0.01})

    @dataclass(frozen=True, kw_only=True)
    class Config(OptimizerConfig):
        """The `optimizer` section with `name: adafactor`; the paper's: lr 0.01, relative_step and scale_parameter."""

        lr: float = 1e-3
        """Peak learning rate, with `relative_step` its upper limit; the schedule multiplies it."""
        weight_decay: float = 0.0
        """Decay per step, times the learning rate, of matrices; norms, biases and other vectors are not decayed."""
        beta2_decay: float = -0.8
        """Exponent of the step t in the second moment's decay rate, `1 - t ** beta2_decay`, as in the paper."""
        eps: tuple[float, float] = (1e-30, 1e-3)
        """Added to squared gradients; smallest scale of a parameter for `scale_parameter`. As in the paper."""
        clip: float = 1.0
        """Largest root mean square of an update (`d` in the paper)."""
        beta1: float = 0.0
        """Decay rate of the average of updates, which costs a whole copy of the parameters; 0 for none."""
        relative_step: bool = False
        """Let the learning rate fall as `1 / sqrt(t)`, from `lr`."""
        scale_parameter: bool = False
        """Make steps relative to the root mean square of the parameter."""

        def __post_init__(self) -> None:
            """Refuse what no step can use."""
            super().__post_init__()
            if self.eps[0] <= 0 or self.eps[1] < 0 or self.clip <= 0:
                raise ValueError("eps[0] and clip must be positive, and eps[1] not negative")
            if self.beta2_decay > 0 or not 0 <= self.beta1 < 1:
                raise ValueError("beta2_decay must not be positive, and beta1 must be in [0, 1)")
