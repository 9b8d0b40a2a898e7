"""The section `precision`."""

from __future__ import annotations

from dataclasses import dataclass
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from trustformers_pl.hookspecs import hookimpl
from trustformers_pl.parts import Part, part
from trustformers_pl.plugins import Plugin
from trustformers_pl.precision.levels import usual_level, usual_scale, why_refused

if TYPE_CHECKING:
    from collections.abc import Mapping

    from trustformers_pl.plan import Plan
    from trustformers_pl.run import Run


class PrecisionPlugin(Plugin):
    """16-bit training: bf16 or fp16, by autocast (O1), with float32 masters (O2) or throughout (O3); loss scaling."""

    example: ClassVar[Mapping[str, Any]] = MappingProxyType({"dtype": "bf16"})

    @dataclass(frozen=True, kw_only=True)
    class Config:
        """The `precision` section."""

        dtype: Literal["fp32", "bf16", "fp16", "fp64"] = "fp32"
        """Type that the model computes in. `bf16` has the range of `fp32` and needs no loss scale; `fp16` does."""
        opt_level: Literal["O0", "O1", "O2", "O3"] | None = None
        """`O0`: all in `dtype`; `O1`: autocast; `O2`: 16-bit model, float32 masters; `O3`: all in 16 bits. By default
        O1 for 16 bits."""
        loss_scale: Literal["dynamic", "none"] | float | None = None
        """Factor of `fp16` losses: found while training (`dynamic`, the default at O1 and O2), or fixed."""
        initial_scale: float = 65536.0
        """The first dynamic scale."""
        growth_factor: float = 2.0
        """By which the dynamic scale grows."""
        backoff_factor: float = 0.5
        """By which it falls after an overflow."""
        growth_interval: int = 2000
        """Optimizer steps without an overflow after which it grows."""
        min_scale: float = 1.0
        """It never falls below this."""
        max_skips: int = 25
        """Optimizer steps skipped in a row after which the run stops: no scale would help it any more."""

        def __post_init__(self) -> None:
            """Refuse what does not go together."""
            problem = why_refused(self.dtype, self.opt_level or usual_level(self.dtype), self.loss_scale)
            if problem is not None:
                raise ValueError(problem)
            if not (self.growth_factor > 1 > self.backoff_factor > 0):
                raise ValueError("growth_factor must be above 1, and backoff_factor between 0 and 1")
            if min(self.growth_interval, self.max_skips) < 1 or not 0 < self.min_scale <= self.initial_scale:
                raise ValueError(
                    "growth_interval and max_skips must be at least 1, and min_scale above 0 and at most initial_scale"
                )

    config: Config

    @property
    def scales(self) -> bool:
        """Whether losses are scaled."""
        level = self.config.opt_level or usual_level(self.config.dtype)
        return (self.config.loss_scale or usual_scale(self.config.dtype, level)) != "none"

    @hookimpl
    def trainer_arguments(self, plan: Plan) -> Mapping[str, Any]:
        """The Precision plugin."""
        del plan
        return {"precision": part("trustformers_pl.precision:AMP", **self.written())}

    @hookimpl
    def callbacks(self, plan: Plan) -> list[Part]:
        """What logs the loss scale."""
        del plan
        return [part("trustformers_pl.precision:LossScaleMonitor")] if self.scales else []

    @hookimpl
    def probe(self, run: Run) -> str | None:
        """The level that was trained at."""
        precision: Any = run.trainer.precision_plugin
        if type(precision).__name__ != "AMP":
            return None
        scale = "" if precision.loss_scale is None else f", loss scale {precision.loss_scale:g}"
        return f"{self.config.dtype} at {precision.opt_level}{scale}"
