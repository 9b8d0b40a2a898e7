"""The section `zero`."""

from __future__ import annotations

from types import MappingProxyType
from typing import TYPE_CHECKING, Any, ClassVar

from trustformers_pl.hookspecs import hookimpl
from trustformers_pl.parallel.plugins import evidence_of_mesh
from trustformers_pl.parallel.zero_config import SHARD, ZeROConfig
from trustformers_pl.parts import Part, part
from trustformers_pl.plugins import Plugin
from trustformers_pl.traits import Refusal, Slot, Trait, Traits

if TYPE_CHECKING:
    from collections.abc import Mapping

    from trustformers_pl.plan import Plan
    from trustformers_pl.run import Run


class ZeROPlugin(Plugin):
    """Optimizer state, gradients and weights shared out among data-parallel ranks: ZeRO stages 1, 2 and 3."""

    example: ClassVar[Mapping[str, Any]] = MappingProxyType({"stage": 2})
    Config = ZeROConfig

    config: ZeROConfig

    @classmethod
    def traits(cls, config: ZeROConfig) -> Traits:
        """It says what the ranks that see different data do; at stage 3 no rank has whole weights to differentiate."""
        whole = frozenset({Trait.MESH, Trait.SHARDED_GRADIENTS})
        if config.stage < 3:
            return Traits(claims=frozenset({Slot.DATA_PARALLEL}), provides=whole)
        second_order = Refusal(
            trait=Trait.SECOND_ORDER,
            reason="weights of stage 3 are gathered for one backward pass and freed in it, and cannot be "
            "differentiated through a second time",
            mend="use zero.stage=2, which keeps weights whole, or a first-order variant",
        )
        return Traits(
            claims=frozenset({Slot.DATA_PARALLEL}),
            provides=whole | {Trait.DEFERRED_VALUES},
            refuses=(second_order,),
        )

    @hookimpl
    def mesh(self, plan: Plan) -> list[Part]:
        """The dimension that shards, as large as the other dimensions leave it."""
        del plan
        config = self.config
        return [part("trustformers_pl.parallel:Dimension", SHARD, config.ranks, wrap=config.wrap(), data=True)]

    @hookimpl
    def probe(self, run: Run) -> str | None:
        """The mesh that the run was on, and what was sharded."""
        found = evidence_of_mesh(run)
        if found is None:
            return None
        wraps = getattr(run.trainer.strategy, "wraps", ())
        stages = [getattr(wrap, "stage", 3) for wrap in wraps if wrap.shards or wrap.shards_weights]
        return f"stage {stages[0]} on {found}" if stages else None
