"""A training engine for transformers on PyTorch Lightning: every feature a plugin, assembled from one recipe."""

from typing import TYPE_CHECKING

from trustformers_pl.lazy import exports

if TYPE_CHECKING:
    from trustformers_pl import errors
    from trustformers_pl.decomposed import DecomposedLoss
    from trustformers_pl.factory import assemble
    from trustformers_pl.growth import grow
    from trustformers_pl.hookspecs import hookimpl
    from trustformers_pl.live import Trainer
    from trustformers_pl.module_phases import ModulePhases, PhasedModule
    from trustformers_pl.parts import Name, Part, part
    from trustformers_pl.phases import DataPhase, ModulePhase, PhaseContext
    from trustformers_pl.plan import Plan
    from trustformers_pl.plugins import Plugin
    from trustformers_pl.recipe import Recipe
    from trustformers_pl.report import ReportCurve, ReportSection, ReportTable
    from trustformers_pl.run import Run
    from trustformers_pl.steps import LossTerm, SampleWeights
    from trustformers_pl.training_arguments import TrainingArguments
    from trustformers_pl.traits import Refusal, Traits

__all__ = [
    "DataPhase",
    "DecomposedLoss",
    "LossTerm",
    "ModulePhase",
    "ModulePhases",
    "Name",
    "Part",
    "PhaseContext",
    "PhasedModule",
    "Plan",
    "Plugin",
    "Recipe",
    "Refusal",
    "ReportCurve",
    "ReportSection",
    "ReportTable",
    "Run",
    "SampleWeights",
    "Trainer",
    "TrainingArguments",
    "Traits",
    "assemble",
    "errors",
    "grow",
    "hookimpl",
    "part",
]
__getattr__, __dir__ = exports(
    __name__,
    {
        "DataPhase": "phases",
        "DecomposedLoss": "decomposed",
        "LossTerm": "steps",
        "ModulePhase": "phases",
        "ModulePhases": "module_phases",
        "Name": "parts",
        "Part": "parts",
        "PhaseContext": "phases",
        "PhasedModule": "module_phases",
        "Plan": "plan",
        "Plugin": "plugins",
        "Recipe": "recipe",
        "Refusal": "traits",
        "ReportCurve": "report",
        "ReportSection": "report",
        "ReportTable": "report",
        "Run": "run",
        "SampleWeights": "steps",
        "Trainer": "live",
        "TrainingArguments": "training_arguments",
        "Traits": "traits",
        "assemble": "factory",
        "errors": "",
        "grow": "growth",
        "hookimpl": "hookspecs",
        "part": "parts",
    },
)
