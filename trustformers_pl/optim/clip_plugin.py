"""The section `clip`."""

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


class ClipPlugin(Plugin):
    """Gradient clipping, by the norm of all gradients together or by the value of each element."""

    example: ClassVar[Mapping[str, Any]] = MappingProxyType({"norm": 0.5})

    @dataclass(frozen=True, kw_only=True)
    class Config:
        """The `clip` section."""

        norm: float | None = None
        """Largest 2-norm of all gradients as one vector (Pascanu et al. 2013); 1.0, usual for transformers, where no
        value is given."""
        value: float | None = None
        """Largest absolute value of an element, instead of a norm."""

        def __post_init__(self) -> None:
            """Refuse two kinds at once, and what would leave no gradient."""
            if self.norm is not None and self.value is not None:
                raise ValueError("norm and value are both given; give one of the two")
            if not self.limit > 0:
                raise ValueError(f"the largest norm or value must be above 0, but is {self.limit}")

        @property
        def limit(self) -> float:
            """The largest norm or value."""
            if self.norm is not None:
                return self.norm
            return 1.0 if self.value is None else self.value

    config: Config

    @hookimpl
    def trainer_arguments(self, plan: Plan) -> Mapping[str, Any]:
        """Lightning's own arguments, which the gradient order follows."""
        del plan
        algorithm = "norm" if self.config.value is None else "value"
        return {"gradient_clip_val": self.config.limit, "gradient_clip_algorithm": algorithm}

    @hookimpl
    def probe(self, run: Run) -> str | None:
        """What the last step's gradients were clipped to."""
        last = getattr(run.trainer.precision_plugin, "last_step", None)
        if last is None or run.trainer.gradient_clip_val is None:
            return None
        return f"norm {float(last.norm):.3g} before, {run.trainer.gradient_clip_val} at most"
