"""The section `replay`."""

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


class ReplayPlugin(Plugin):
    """Experience replay: samples of the past in every batch."""

    example: ClassVar[Mapping[str, Any]] = MappingProxyType({"capacity": 8, "batch": 2})

    @dataclass(frozen=True, kw_only=True)
    class Config(MemoryConfig):
        """The `replay` section."""

        keep: Literal["reservoir", "balanced", "herding"] = "reservoir"
        """`reservoir`: a uniform draw of all samples so far; `balanced`: as many of each class as there can be;
        `herding`: chosen when a task ends, so that each class keeps its mean, which needs `tasks`."""

    config: Config

    @classmethod
    def traits(cls, config: Any) -> Traits:
        """One memory adds to a batch; herding chooses when a task ends."""
        needs = frozenset[str]({Trait.TASKS} if config.keep == "herding" else ())
        return Traits(claims=frozenset({CLAIM}), requires=needs, after=frozenset({Trait.TASKS}))

    @hookimpl
    def callbacks(self, plan: Plan) -> list[Part]:
        """The callback that keeps samples."""
        return [part("trustformers_pl.continual:Replay", **self.written(), seed=plan.seed)]

    @hookimpl
    def data(self, plan: Plan, phase: DataPhase) -> list[Part] | None:
        """What adds them to a batch."""
        del plan
        return [part("trustformers_pl.continual:ReplayedRows")] if phase is DataPhase.MIX else None

    @hookimpl
    def probe(self, run: Run) -> str | None:
        """How many samples were replayed."""
        replayed = sum(callback.replayed for callback in run.callbacks("Replay"))
        return f"{replayed} samples replayed" if replayed else None
