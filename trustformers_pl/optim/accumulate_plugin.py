"""The section `accumulate`."""

from __future__ import annotations

from dataclasses import dataclass
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, ClassVar

from trustformers_pl.hookspecs import hookimpl
from trustformers_pl.plugins import Plugin

if TYPE_CHECKING:
    from collections.abc import Mapping

    from trustformers_pl.plan import Plan
    from trustformers_pl.run import Run


class AccumulatePlugin(Plugin):
    """Gradient accumulation: an optimizer step takes several batches, divided by the count of all their elements."""

    example: ClassVar[Mapping[str, Any]] = MappingProxyType({"batches": 2})

    @dataclass(frozen=True, kw_only=True)
    class Config:
        """The `accumulate` section."""

        batches: int
        """Batches of each rank that make up one optimizer step; an epoch's last step takes what is left."""

        def __post_init__(self) -> None:
            """Refuse what is no number of batches."""
            if self.batches < 1:
                raise ValueError(f"batches must be at least 1, but is {self.batches}")

    config: Config

    @hookimpl
    def trainer_arguments(self, plan: Plan) -> Mapping[str, Any]:
        """Lightning counts the batches."""
        del plan
        return {"accumulate_grad_batches": self.config.batches}

    @hookimpl
    def probe(self, run: Run) -> str | None:
        """Batches and the steps that they made."""
        loop = run.trainer.fit_loop.epoch_loop
        batches, steps = loop.total_batch_idx + 1, run.trainer.global_step
        return f"{batches} batches in {steps} steps" if batches > steps or self.config.batches == 1 else None
