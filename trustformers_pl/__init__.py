"""A training engine for transformers on PyTorch Lightning: every feature a plugin, assembled from one recipe."""

from typing import TYPE_CHECKING

from trustformers_pl.lazy import exports

if TYPE_CHECKING:
    from trustformers_pl import errors
    from trustformers_pl.decomposed import DecomposedLoss
    from trustformers_pl.factory import assemble
    from trustformers_pl.hookspecs import hookimpl
    from trustformers_pl.live import Trainer
    from trustformers_pl.parts import Name, Part, part
    from trustformers_pl.plan import Plan
    from trustformers_pl.plugins import Plugin
    from trustformers_pl.recipe import Recipe
    from trustformers_pl.run import Run
    from trustformers_pl.steps import LossTerm, SampleWeights
    from trustformers_pl.traits import Refusal, Traits

__all__ = [
    "DecomposedLoss",
    "LossTerm",
    "Name",
    "Part",
    "Plan",
    "Plugin",
    "Recipe",
    "Refusal",
    "Run",
    "SampleWeights",
    "Trainer",
    "Traits",
    "assemble",
    "errors",
    "hookimpl",
    "part",
]
__getattr__, __dir__ = exports(
    __name__,
    {
        "DecomposedLoss": "decomposed",
        "LossTerm": "steps",
        "Name": "parts",
        "Part": "parts",
        "Plan": "plan",
        "Plugin": "plugins",
        "Recipe": "recipe",
        "Refusal": "traits",
        "Run": "run",
        "SampleWeights": "steps",
        "Trainer": "live",
        "Traits": "traits",
        "assemble": "factory",
        "errors": "",
        "hookimpl": "hookspecs",
        "part": "parts",
    },
)
