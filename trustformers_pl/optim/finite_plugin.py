"""The section `finite`."""

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


class FinitePlugin(Plugin):
    """What happens when gradients are not finite: the run stops, skips the step, or goes back."""

    example: ClassVar[Mapping[str, Any]] = MappingProxyType({"policy": "skip"})

    @dataclass(frozen=True, kw_only=True)
    class Config:
        """The `finite` section."""

        policy: Literal["stop", "skip", "roll_back"] = "stop"
        """`stop` ends the run before the weights are touched, as without this section; `skip` leaves the step out;
        `roll_back` goes back to the newest checkpoint with finite weights, and on with the data that follow."""
        max_consecutive: int = 10
        """Steps skipped in a row after which the run stops all the same; of `roll_back`: overflows in a row that are
        left to a loss scale."""
        max_rollbacks: int = 3
        """Of `roll_back`: times to go back; the next fault stops the run."""
        skip_batches: int = 0
        """Of `roll_back`: optimizer steps left out after going back, besides those since the checkpoint."""

        def __post_init__(self) -> None:
            """Refuse what is no number of steps."""
            if self.max_rollbacks < 1 or self.skip_batches < 0:
                raise ValueError("max_rollbacks must be at least 1, and skip_batches not negative")
            if self.max_consecutive < 1:
                raise ValueError(f"max_consecutive must be at least 1, but is {self.max_consecutive}")

    config: Config

    @classmethod
    def traits(cls, config: Config) -> Traits:
        """Going back needs something to go back to."""
        if config.policy != "roll_back":
            return Traits()
        return Traits(requires=frozenset({Trait.CHECKPOINTS}), provides=frozenset({Trait.ROLLS_BACK}))

    @hookimpl
    def callbacks(self, plan: Plan) -> list[Part]:
        """The callback that decides; nothing for what the engine does anyway."""
        del plan
        if self.config.policy == "stop":
            return []
        if self.config.policy == "roll_back":
            limits = (self.config.max_rollbacks, self.config.skip_batches, self.config.max_consecutive)
            return [part("trustformers_pl.faults:RollBack", *limits)]
        return [part("trustformers_pl.optim:SkipNonFinite", self.config.max_consecutive)]

    @hookimpl
    def probe(self, run: Run) -> str | None:
        """The policy, and how often it was needed."""
        if self.config.policy == "stop":
            last = getattr(run.trainer.precision_plugin, "last_step", None)
            return "stops; every step was finite" if last is not None and last.finite else None
        for callback in run.callbacks("RollBack"):
            return f"gone back {callback.rollbacks.done} times"
        return next((f"skipped {callback.skipped} steps" for callback in run.callbacks("SkipNonFinite")), None)
