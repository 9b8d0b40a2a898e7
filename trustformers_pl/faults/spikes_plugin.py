"""The section `spikes`."""

from __future__ import annotations

import dataclasses
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


class SpikesPlugin(Plugin):
    """Steps whose loss or gradient is far larger than before: left out, gone back from, or the run's end."""

    example: ClassVar[Mapping[str, Any]] = MappingProxyType({"factor": 10.0, "window": 100, "policy": "skip"})

    @dataclass(frozen=True, kw_only=True)
    class Config:
        """The `spikes` section."""

        factor: float = 10.0
        """How far a value lies above the median of the window, in standard deviations (1.4826 times the median absolute
        deviation, and at least 1 % of the median)."""
        window: int = 100
        """Optimizer steps that the median is of; nothing is a spike before half of them are made."""
        of: tuple[Literal["loss", "grad_norm"], ...] = ("loss", "grad_norm")
        """What is looked at, each by a window of its own: the loss that is differentiated, with its terms, and the norm
        of all gradients before clipping."""
        policy: Literal["skip", "roll_back", "stop"] = "skip"
        """`skip` leaves the step out; `roll_back` goes back to the newest checkpoint and on with the data that follow;
        `stop` ends the run before the weights are touched."""
        max_consecutive: int = 10
        """Spikes in a row that are taken for the new level."""
        max_rollbacks: int = 3
        """Of `roll_back`: times to go back; the next spike stops the run."""
        skip_batches: int = 0
        """Of `roll_back`: optimizer steps left out after going back, besides those since the checkpoint. PaLM left out
        200 to 500 batches in all."""

        def __post_init__(self) -> None:
            """Refuse what finds nothing, or everything."""
            if self.factor <= 0 or self.window < 2 or self.max_consecutive < 2:
                raise ValueError("factor must be positive, and window and max_consecutive at least 2")
            if not self.of:
                raise ValueError("of must name loss, grad_norm, or both")
            if self.max_rollbacks < 1 or self.skip_batches < 0:
                raise ValueError("max_rollbacks must be at least 1, and skip_batches not negative")

    config: Config

    @classmethod
    def traits(cls, config: Config) -> Traits:
        """Going back needs something to go back to."""
        if config.policy != "roll_back":
            return Traits()
        return Traits(requires=frozenset({Trait.CHECKPOINTS}), provides=frozenset({Trait.ROLLS_BACK}))

    @hookimpl
    def callbacks(self, plan: Plan) -> list[Part]:
        """The callback that looks at norms."""
        del plan
        return [part("trustformers_pl.faults:Spikes", **dataclasses.asdict(self.config))]

    @hookimpl
    def probe(self, run: Run) -> str | None:
        """How many were found."""
        for callback in run.callbacks("Spikes"):
            back = f", gone back {callback.rollbacks.done} times" if self.config.policy == "roll_back" else ""
            return f"found {callback.found} spikes{back}"
        return None
