"""The section `progressive`."""

from __future__ import annotations

from dataclasses import dataclass
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from trustformers_pl.hookspecs import hookimpl
from trustformers_pl.parts import Part, part
from trustformers_pl.phases import ModulePhase
from trustformers_pl.plugins import Plugin
from trustformers_pl.traits import Refusal, Trait, Traits

if TYPE_CHECKING:
    from collections.abc import Mapping

    from trustformers_pl.plan import Plan
    from trustformers_pl.run import Run


class ProgressivePlugin(Plugin):
    """Progressive networks: a new column of layers for each task, which also reads the frozen columns before it."""

    example: ClassVar[Mapping[str, Any]] = MappingProxyType({"column": "blocks.0.mlp", "levels": ["gate_up", "down"]})

    @dataclass(frozen=True, kw_only=True)
    class Config:
        """The `progressive` section."""

        column: str
        """Dotted name of the submodule that each task gets one of: a module with `forward`, or a list of blocks."""
        levels: tuple[str, ...] | None = None
        """Its children that read what those of earlier columns read, in the order of their calls; the children with
        weights of a sequence, or of its one list of blocks, if not given."""
        lateral: Literal["linear", "adapter"] = "linear"
        """How they read it: a matrix for each earlier column (equation 2 of Rusu et al. 2016), or one narrow hidden
        layer over all (equation 3)."""
        hidden: int | None = None
        """Width of that hidden layer; as wide as one column's activations if not given, as in the paper."""
        start: Literal["fresh", "copy"] = "fresh"
        """Weights of a new column: drawn anew, by each part's `reset_parameters` and then the module's
        `initialize_weights(part)` if it has one; or a `copy` of the column before."""
        freeze_rest: bool = False
        """Freeze what is not in the columns, such as embeddings and heads, with the first of them."""

        def __post_init__(self) -> None:
            """Refuse what names nothing."""
            if not self.column:
                raise ValueError("column is empty; give the dotted name of a submodule, as `layers`")
            if self.hidden is not None and (self.hidden < 1 or self.lateral != "adapter"):
                raise ValueError("hidden is the width of `lateral: adapter`, and at least 1")

    config: Config

    @classmethod
    def traits(cls, config: Config) -> Traits:
        """It changes the module's structure during the training, which neither shards nor old checkpoints follow."""
        del config
        sharded = Refusal(
            trait=Trait.SHARDED_GRADIENTS,
            reason="shards are laid out once, and columns grow during the training",
            mend="use ddp",
        )
        back = Refusal(
            trait=Trait.ROLLS_BACK,
            reason="a checkpoint of before a task has fewer columns than its optimizer then trains",
            mend="use the policy skip or stop",
        )
        return Traits(
            provides=frozenset({Trait.MODULE_STRUCTURE}),
            requires=frozenset({Trait.TASKS}),
            refuses=(sharded, back),
            after=frozenset({Trait.TASKS, "lwf", "ema", "ewc", "mas", "si"}),
        )

    @hookimpl
    def check(self, plan: Plan) -> list[str]:
        """Each sample's column must be known."""
        configs: list[Any] = [plugin.config for plugin in plan.plugins if plugin.name == "tasks"]
        if not any(config.scenario == "class" for config in configs):
            return []
        cause = "progressive chooses a column for each sample, and tasks.scenario class tells no tasks"
        return [f"{plan.place(self.name)}: {cause}; use scenario task or domain"]

    @hookimpl
    def modify_module(self, plan: Plan, phase: ModulePhase) -> list[Part] | None:
        """Columns in the place of a submodule."""
        del plan
        if phase is not ModulePhase.SURGERY:
            return None
        written = {key: value for key, value in self.written().items() if key != "freeze_rest"}
        if "levels" in written:
            written["levels"] = list(written["levels"])
        return [part("trustformers_pl.continual:IntoColumns", **written)]

    @hookimpl
    def module_mixins(self, plan: Plan) -> list[str]:
        """What loads as many columns as a checkpoint has."""
        del plan
        return ["trustformers_pl.continual:ProgressiveModule"]

    @hookimpl
    def callbacks(self, plan: Plan) -> list[Part]:
        """The callback that grows columns."""
        del plan
        options = {"freeze_rest": True} if self.config.freeze_rest else {}
        return [part("trustformers_pl.continual:Progressive", **options)]

    @hookimpl
    def probe(self, run: Run) -> str | None:
        """How many columns there are."""
        from trustformers_pl.continual.progressive import networks

        counts = [len(network.columns) for network in networks(run.module).values()]
        return f"{max(counts)} columns" if counts else None
