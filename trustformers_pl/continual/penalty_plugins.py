"""The sections `ewc`, `si` and `mas`."""

from __future__ import annotations

from dataclasses import dataclass
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from trustformers_pl.hookspecs import hookimpl
from trustformers_pl.parts import Part, part
from trustformers_pl.plugins import Plugin
from trustformers_pl.traits import Trait, Traits

if TYPE_CHECKING:
    from collections.abc import Mapping

    from trustformers_pl.plan import Plan
    from trustformers_pl.run import Run


class _PenaltyPlugin(Plugin):
    """A penalty on the weights that earlier tasks need."""

    target: ClassVar[str]
    after: ClassVar[frozenset[str]] = frozenset({Trait.TASKS, "si"})  # which needs the gradients of the loss alone
    example: ClassVar[Mapping[str, Any]] = MappingProxyType({"strength": 10.0})

    @classmethod
    def traits(cls, config: Any) -> Traits:
        """It acts where tasks end."""
        del config
        return Traits(requires=frozenset({Trait.TASKS}), after=cls.after)

    @hookimpl
    def callbacks(self, plan: Plan) -> list[Part]:
        """The callback that holds weights."""
        del plan
        return [part(f"trustformers_pl.continual:{self.target}", **self.written())]

    @hookimpl
    def probe(self, run: Run) -> str | None:
        """Of how many tasks importances were taken, and in how many steps they held weights."""
        for found in run.callbacks(self.target):
            if found.absorbed:
                return f"importances of {found.absorbed} tasks, penalty in {found.added} steps"
        return None


class EWCPlugin(_PenaltyPlugin):
    """Elastic weight consolidation: weights are held near those of earlier tasks by their Fisher information."""

    target = "EWC"

    @dataclass(frozen=True, kw_only=True)
    class Config:
        """The `ewc` section."""

        strength: float = 100.0
        """lambda of the penalty; any value is stable."""
        fisher: Literal["empirical", "true", "expected"] = "true"
        """`true`: one label drawn from the model for each sample; `expected`: all classes, exact, as many backward
        passes as there are classes; `empirical`: the data's own labels."""
        online: bool = False
        """Hold weights near those of the newest task alone (online EWC), not near where all tasks' penalties meet."""
        gamma: float = 1.0
        """Of `online`: what a new task leaves of the earlier importances."""
        samples: int | None = 2000
        """Most samples of a task that the Fisher information is taken from; `null` takes all."""
        batch_size: int = 256
        """Samples of a rank's batch in that pass."""

        def __post_init__(self) -> None:
            """Refuse what holds nothing, or everything."""
            _check_penalty(self.strength, self.batch_size, self.samples)
            if not 0 < self.gamma <= 1:
                raise ValueError(f"gamma must be above 0 and at most 1, but is {self.gamma}")
            if self.gamma != 1 and not self.online:
                raise ValueError("gamma is of online EWC; add `online: true`")

    config: Config


class MASPlugin(_PenaltyPlugin):
    """Memory aware synapses: weights to which answers to earlier tasks are sensitive are held; needs no labels."""

    target = "MAS"

    @dataclass(frozen=True, kw_only=True)
    class Config:
        """The `mas` section."""

        strength: float = 1.0
        """lambda of the penalty; any value is stable."""
        samples: int | None = 2000
        """Most samples of a task that importances are taken from; `null` takes all."""
        batch_size: int = 256
        """Samples of a rank's batch in that pass."""

        def __post_init__(self) -> None:
            """Refuse what holds nothing."""
            _check_penalty(self.strength, self.batch_size, self.samples)

    config: Config


class SIPlugin(_PenaltyPlugin):
    """Synaptic intelligence: weights whose movement lowered the loss of earlier tasks are held."""

    target = "SI"
    after = frozenset({Trait.TASKS})

    @dataclass(frozen=True, kw_only=True)
    class Config:
        """The `si` section."""

        strength: float = 1.0
        """c of the penalty; any value is stable."""
        damping: float = 0.1
        """xi, added to the squared way of a weight; the paper has 0.1 for MNIST and 0.001 for CIFAR."""

        def __post_init__(self) -> None:
            """Refuse what divides by nothing."""
            _check_penalty(self.strength)
            if self.damping <= 0:
                raise ValueError(f"damping must be positive, but is {self.damping}")

    config: Config


def _check_penalty(strength: float, *counts: int | None) -> None:
    if not 0 <= strength < float("inf"):
        raise ValueError(f"strength must be a number that is not negative, but is {strength}")
    if any(count is not None and count < 1 for count in counts):
        raise ValueError("samples and batch_size must be at least 1")
