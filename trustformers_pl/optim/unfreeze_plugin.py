"""The section `unfreeze`."""

from __future__ import annotations

from dataclasses import dataclass
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, ClassVar

from trustformers_pl.hookspecs import hookimpl
from trustformers_pl.names import nearest
from trustformers_pl.parts import Part, part
from trustformers_pl.plugins import Plugin

if TYPE_CHECKING:
    from collections.abc import Mapping

    from trustformers_pl.plan import Plan
    from trustformers_pl.run import Run

KEYS = ("match", "step", "epoch")


class UnfreezePlugin(Plugin):
    """Gradual unfreezing (Howard & Ruder 2018): layers that begin to train at a later step or epoch."""

    example: ClassVar[Mapping[str, Any]] = MappingProxyType({"stages": [{"match": "*norm*", "step": 3}]})

    @dataclass(frozen=True, kw_only=True)
    class Config:
        """The `unfreeze` section."""

        stages: tuple[dict[str, str | int], ...]
        """Patterns of parameter names, and the optimizer step or epoch (from 0) from which they train; later win:
        `{match: "blocks.0.*", step: 100}` or `{match: "embedding.*", epoch: 2}`. Everything else trains at once."""

        def __post_init__(self) -> None:
            """Refuse what says nothing."""
            if not self.stages:
                raise ValueError("stages is empty; give what trains later, or remove the section")
            for stage in self.stages:
                _check_stage(stage)

    config: Config

    @hookimpl
    def callbacks(self, plan: Plan) -> list[Part]:
        """The callback that holds parameters."""
        del plan
        return [part("trustformers_pl.optim:GradualUnfreezing", [dict(stage) for stage in self.config.stages])]

    @hookimpl
    def probe(self, run: Run) -> str | None:
        """How many gradients were taken away."""
        held = sum(callback.held for callback in run.callbacks("GradualUnfreezing"))
        return f"held {held} gradients" if held else None


def _check_stage(stage: Mapping[str, Any]) -> None:
    shown = dict(stage)
    for key in stage:
        if key not in KEYS:
            raise ValueError(f"{shown} of stages: no such key {key!r}; {nearest(key, KEYS)}")
    if not isinstance(stage.get("match"), str):
        raise ValueError(
            f'{shown} of stages has no `match`; give a pattern of parameter names, as `match: "blocks.0.*"`'
        )
    moments = [stage[key] for key in ("step", "epoch") if key in stage]
    if len(moments) != 1 or not isinstance(moments[0], int) or moments[0] < 0:
        raise ValueError(f"{shown} of stages: give either `step` or `epoch`, a whole number that is not negative")
