"""The section `out_of_memory`."""

from __future__ import annotations

from dataclasses import dataclass
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, ClassVar

from trustformers_pl.hookspecs import hookimpl
from trustformers_pl.parts import Part, part
from trustformers_pl.plugins import Plugin
from trustformers_pl.traits import Refusal, Slot, Trait, Traits

if TYPE_CHECKING:
    from collections.abc import Mapping

    from trustformers_pl.plan import Plan
    from trustformers_pl.run import Run


class OutOfMemoryPlugin(Plugin):
    """Batches that do not fit into memory: cut into micro-batches of the same gradient, up to a number of them."""

    example: ClassVar[Mapping[str, Any]] = MappingProxyType({"max_splits": 3})

    @dataclass(frozen=True, kw_only=True)
    class Config:
        """The `out_of_memory` section."""

        max_splits: int = 3
        """Times that a batch may be cut in halves: 3 allows 8 pieces. Memory that runs out in the smallest ends the
        run."""

        def __post_init__(self) -> None:
            """Refuse what cuts nothing, or into more pieces than any batch has samples."""
            if not 1 <= self.max_splits <= 16:
                raise ValueError("max_splits must be from 1 to 16; to cut nothing remove the section")

    config: Config

    @classmethod
    def traits(cls, config: Config) -> Traits:
        """It runs the steps."""
        del config
        sharded = Refusal(
            trait=Trait.SHARDED_GRADIENTS,
            reason="a rank that runs out of memory runs its batch again, and the others would wait for it amid "
            "their backward pass",
            mend="use ddp, or a smaller batch",
        )
        return Traits(claims=frozenset({Slot.STEP}), refuses=(sharded,))

    @hookimpl
    def step(self, plan: Plan) -> Part:
        """The executor that cuts batches."""
        del plan
        return part("trustformers_pl.faults:SplitStep", max_splits=self.config.max_splits)

    @hookimpl
    def callbacks(self, plan: Plan) -> list[Part]:
        """The callback that lets ranks, and checkpoints, know of it."""
        del plan
        return [part("trustformers_pl.faults:OutOfMemorySplits", max_splits=self.config.max_splits)]

    @hookimpl
    def probe(self, run: Run) -> str | None:
        """Into how many pieces batches are cut."""
        for callback in run.callbacks("OutOfMemorySplits"):
            pieces = "whole batches" if not callback.step.splits else f"{2**callback.step.splits} pieces a batch"
            return pieces if callback.runs_steps else None
        return None
