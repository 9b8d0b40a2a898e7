"""The section `gradient_noise`.

Commands that start without torch read this module: only hooks may import it.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from types import MappingProxyType
from typing import TYPE_CHECKING

from trustformers_pl import Plugin, ReportSection, Traits, hookimpl, part

if TYPE_CHECKING:
    from trustformers_pl import Part, Plan, Run

NOISY = "trustformers-pl-example:noisy-gradients"


class GradientNoisePlugin(Plugin):
    """Annealed Gaussian noise on the gradients (Neelakantan et al. 2015)."""

    @dataclass(frozen=True, kw_only=True)
    class Config:
        """The `gradient_noise` section."""

        eta: float
        """Variance of the noise at the first step, in squared units of the gradient; the paper tries 0.01, 0.3, 1."""
        gamma: float = 0.55
        """The variance falls as (1 + step)^-gamma; the paper's value."""

        def __post_init__(self) -> None:
            """Refuse what is no variance, or makes it grow."""
            if not (0 <= self.eta < math.inf and 0 <= self.gamma < math.inf):
                raise ValueError("eta and gamma must be finite and not negative")

    config: Config
    example = MappingProxyType({"eta": 0.3})

    @classmethod
    def traits(cls, config: Config) -> Traits:
        """Other packages may refuse noisy gradients, or come after them."""
        return Traits(provides=frozenset({NOISY} if config.eta > 0 else ()))

    @hookimpl
    def callbacks(self, plan: Plan) -> list[Part]:
        """The callback, as the call that a person would write."""
        target = "trustformers_pl_example.callback:GradientNoise"
        return [part(target, eta=self.config.eta, gamma=self.config.gamma, seed=plan.seed)]

    @hookimpl
    def probe(self, run: Run) -> str | None:
        """The noise that was added last."""
        deviations = _deviations(run)
        return f"noise of standard deviation {deviations[-1]:.3g}" if deviations else None

    @hookimpl
    def report(self, run: Run) -> list[ReportSection]:
        """How the noise was annealed."""
        deviations = _deviations(run)
        if not deviations:
            return []
        text = f"Its standard deviation went from {deviations[0]:.3g} to {deviations[-1]:.3g}."
        return [ReportSection("Gradient noise", text)]


def _deviations(run: Run) -> list[float]:
    """What the run's callback tells; nothing where there is none."""
    from trustformers_pl_example.callback import GradientNoise

    callbacks = run.trainer.callbacks  # type: ignore[attr-defined]
    return next((found.deviations for found in callbacks if isinstance(found, GradientNoise)), [])
