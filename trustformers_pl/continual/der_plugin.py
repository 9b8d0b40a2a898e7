"""The section `der`."""

from __future__ import annotations

from dataclasses import dataclass
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from trustformers_pl.continual.memory_config import CLAIM, MemoryConfig
from trustformers_pl.hookspecs import hookimpl
from trustformers_pl.parts import Part, part
from trustformers_pl.phases import DataPhase
from trustformers_pl.plugins import Plugin
from trustformers_pl.traits import Trait, Traits

if TYPE_CHECKING:
    from collections.abc import Mapping

    from trustformers_pl.plan import Plan
    from trustformers_pl.run import Run


class DERPlugin(Plugin):
    """Dark experience replay (DER, DER++): samples of the past, with the answers that the model gave to them then."""

    example: ClassVar[Mapping[str, Any]] = MappingProxyType({"capacity": 8, "batch": 2, "alpha": 0.01, "beta": 0.5})

    @dataclass(frozen=True, kw_only=True)
    class Config(MemoryConfig):
        """The `der` section."""

        alpha: float = 0.1
        """Weight of the squared distance to kept logits, a mean over samples and a sum over outputs."""
        beta: float = 0.0
        """Weight of the loss of replayed samples: DER++ where it is not 0."""
        keep: Literal["reservoir", "balanced"] = "reservoir"
        """`reservoir`: a uniform draw of all samples so far; `balanced`: as many of each class as there can be."""

        def __post_init__(self) -> None:
            """Refuse what pushes away."""
            super().__post_init__()
            if not (0 <= self.alpha < float("inf") and 0 <= self.beta < float("inf")):
                raise ValueError("alpha and beta must be numbers that are not negative")

    config: Config

    @classmethod
    def traits(cls, config: Any) -> Traits:
        """One memory adds to a batch."""
        del config
        return Traits(claims=frozenset({CLAIM}), after=frozenset({Trait.TASKS}))

    @hookimpl
    def callbacks(self, plan: Plan) -> list[Part]:
        """The callback that keeps samples."""
        return [part("trustformers_pl.continual:DarkReplay", **self.written(), seed=plan.seed)]

    @hookimpl
    def data(self, plan: Plan, phase: DataPhase) -> list[Part] | None:
        """What adds them to a batch."""
        del plan
        return [part("trustformers_pl.continual:ReplayedRows")] if phase is DataPhase.MIX else None

    @hookimpl
    def loss_terms(self, plan: Plan) -> list[Part]:
        """The distance to kept logits."""
        del plan
        return [part("trustformers_pl.continual:dark_term", self.config.alpha)]

    @hookimpl
    def sample_weights(self, plan: Plan) -> list[Part]:
        """What keeps the rows for that distance out of the loss."""
        del plan
        return [part("trustformers_pl.continual:dark_weights")]

    @hookimpl
    def probe(self, run: Run) -> str | None:
        """How many samples were replayed."""
        replayed = sum(callback.replayed for callback in run.callbacks("DarkReplay"))
        return f"{replayed} samples replayed" if replayed else None
