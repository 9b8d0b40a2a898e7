"""The section `lwf`."""

from __future__ import annotations

from dataclasses import dataclass
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from trustformers_pl.hookspecs import hookimpl
from trustformers_pl.parts import Part, part
from trustformers_pl.plugins import Plugin
from trustformers_pl.traits import Refusal, Trait, Traits

if TYPE_CHECKING:
    from collections.abc import Mapping

    from trustformers_pl.plan import Plan
    from trustformers_pl.run import Run


class LwFPlugin(Plugin):
    """Learning without forgetting: the network before this task teaches the outputs that it knew."""

    example: ClassVar[Mapping[str, Any]] = MappingProxyType({"from_start": True})

    @dataclass(frozen=True, kw_only=True)
    class Config:
        """The `lwf` section."""

        alpha: float = 1.0
        """Weight of the term (lambda_o of Li & Hoiem 2016)."""
        temperature: float = 2.0
        """T of both softmaxes; the term has the factor T^2."""
        from_start: bool = False
        """Let the weights at the start of the run teach from the first step on, for a pretrained model."""
        heads: Literal["auto", "one", "each"] = "auto"
        """`one` softmax over the outputs that old tasks knew, or one for `each` old task; `auto`: `each` where
        `tasks.scenario` is `task`."""
        cache: bool = False
        """Compute the old answers to a task's training data when it begins, and keep no teacher."""

        def __post_init__(self) -> None:
            """Refuse what teaches nothing."""
            if not (0 <= self.alpha < float("inf") and 0 < self.temperature < float("inf")):
                raise ValueError("alpha must be a number that is not negative, and temperature a positive one")

    config: Config

    @classmethod
    def traits(cls, config: Any) -> Traits:
        """A teacher is whole on each rank; kept answers are not its weights."""
        whole = Refusal(
            trait=Trait.DEFERRED_VALUES,
            reason="each rank would hold a whole teacher beside its shard of the weights",
            mend="use lwf.cache=true, which keeps the teacher's answers, or zero.stage=2",
        )
        needs = frozenset[str]() if config.from_start and not config.cache else frozenset[str]({Trait.TASKS})
        return Traits(requires=needs, refuses=() if config.cache else (whole,), after=frozenset({Trait.TASKS}))

    @hookimpl
    def check(self, plan: Plan) -> list[str]:
        """Answers are kept to a task's own data, and tasks have heads where they have classes of their own."""
        sections: dict[str, Any] = {plugin.name: plugin.config for plugin in plan.plugins}
        replaying = sorted({"replay", "der"} & sections.keys()) if self.config.cache else []
        place = plan.place(self.name)
        found = [f"{place}: lwf.cache has no answers to samples of {one}; remove {one} or cache" for one in replaying]
        tasks = sections.get("tasks")
        if tasks is not None and self.config.heads == "each":
            alike = "tasks.scenario=domain" if tasks.scenario == "domain" else "tasks.boundaries=detect"
            if tasks.scenario == "domain" or tasks.boundaries == "detect":
                found.append(f"{place}: lwf.heads=each: with {alike} all tasks share their outputs; remove heads")
        return found

    @hookimpl
    def callbacks(self, plan: Plan) -> list[Part]:
        """The callback that keeps the teacher."""
        del plan
        return [part("trustformers_pl.continual:LwF", **self.written())]

    @hookimpl
    def loss_terms(self, plan: Plan) -> list[Part]:
        """The term."""
        del plan
        return [part("trustformers_pl.continual:lwf_term", self.config.alpha, self.config.temperature)]

    @hookimpl
    def probe(self, run: Run) -> str | None:
        """How many batches the teacher saw."""
        taught = sum(callback.loss.taught for callback in run.callbacks("LwF"))
        return f"{taught} batches compared with old answers" if taught else None
