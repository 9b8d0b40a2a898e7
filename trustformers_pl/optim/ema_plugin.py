"""The section `ema`."""

from __future__ import annotations

from dataclasses import dataclass
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, ClassVar

from trustformers_pl.hookspecs import hookimpl
from trustformers_pl.parts import Part, part
from trustformers_pl.plugins import Plugin

if TYPE_CHECKING:
    from collections.abc import Mapping

    from trustformers_pl.plan import Plan
    from trustformers_pl.run import Run


class EMAPlugin(Plugin):
    """An exponential moving average of the weights; validation, test and prediction use it."""

    example: ClassVar[Mapping[str, Any]] = MappingProxyType({"decay": 0.9})

    @dataclass(frozen=True, kw_only=True)
    class Config:
        """The `ema` section."""

        decay: float = 0.999
        """Of the average at each update; it spans about 1 / (1 - decay) steps."""
        warmup: bool = True
        """Let the decay grow from 0.1 as (1 + t) / (10 + t), so that the first weights are forgotten."""
        start_step: int = 0
        """Optimizer steps before averaging begins."""
        every_n_steps: int = 1
        """Optimizer steps between updates."""
        evaluate: bool = True
        """Whether validation, test and prediction use the averages, or the model's own weights."""

        def __post_init__(self) -> None:
            """Refuse what is no average."""
            if not 0 <= self.decay < 1:
                raise ValueError(f"decay must be at least 0 and below 1, but is {self.decay}")
            if self.start_step < 0 or self.every_n_steps < 1:
                raise ValueError("start_step must not be negative, and every_n_steps must be at least 1")

    config: Config

    @hookimpl
    def callbacks(self, plan: Plan) -> list[Part]:
        """The callback that averages."""
        del plan
        return [part("trustformers_pl.optim:EMA", **self.written())]

    @hookimpl
    def probe(self, run: Run) -> str | None:
        """How often the averages were updated."""
        updates = sum(callback.updates for callback in run.callbacks("EMA"))
        return f"{updates} updates" if updates else None
