"""From the parts to a run: models, data and Trainer are built here, and nothing is started."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from lightning import LightningDataModule, LightningModule, seed_everything

from trustformers_pl.assembly import Assembly, Live, assemble_parts
from trustformers_pl.compose import extend, plain_again
from trustformers_pl.decomposed import DecomposedLoss
from trustformers_pl.errors import RefusedError
from trustformers_pl.foreign_errors import as_our_own
from trustformers_pl.module_phases import PhasedModule
from trustformers_pl.optimization import ConfiguredOptimizers
from trustformers_pl.parts import Part, build, locate
from trustformers_pl.plan import make_plan
from trustformers_pl.quiet import quiet_lightning
from trustformers_pl.recipe import Recipe
from trustformers_pl.recipe.classes import build_class
from trustformers_pl.run import Run

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping
    from pathlib import Path

    from lightning import Trainer


def assemble(
    recipe: str | Path | Mapping[str, Any] | Recipe, overrides: Iterable[str] = (), *, live: Live | None = None
) -> Run:
    """Put a run together from a recipe; nothing is started.

    Args:
        recipe: A file, a mapping of sections, or a `Recipe`.
        overrides: `section.key=value` or `no-section`, for a file.
        live: Objects that take the place of sections.

    Raises:
        RecipeError: The recipe cannot be read as meant: unknown names, wrong types, a class that cannot be built.
        RefusedError: Features that cannot live in one run, or not with this model.
        PluginError: A plugin that the recipe names is broken.
    """
    if not isinstance(recipe, Recipe):
        is_file = not hasattr(recipe, "keys")
        recipe = Recipe.read(recipe, overrides) if is_file else Recipe.from_mapping(recipe)  # type: ignore[arg-type]
    return build_run(assemble_parts(make_plan(recipe), live))


def build_run(assembly: Assembly) -> Run:
    """Build what `assemble_parts` declared, seeded by the recipe's seed."""
    with quiet_lightning():
        seed_everything(assembly.plan.seed, workers=True, verbose=False)
        trainer = _trainer(assembly)
        return Run(assembly, trainer, _module(assembly), _datamodule(assembly))


def _trainer(assembly: Assembly) -> Trainer:
    with as_our_own(assembly.plan.place("trainer")):
        trainer: Trainer = assembly.trainer.build()
    return trainer


def _module(assembly: Assembly) -> LightningModule:
    module = _built(assembly, "model", assembly.model, LightningModule)
    if not isinstance(module, LightningModule):
        raise RefusedError(
            f"model: {type(module).__name__} is not a LightningModule; subclass lightning.LightningModule"
        )
    plain_again(module)
    extend(module, *(locate(mixin) for mixin in assembly.mixins))
    if callable(getattr(module, "loss", None)) and type(module).training_step is LightningModule.training_step:
        extend(module, DecomposedLoss)
    _attach_loss(module, assembly)
    if assembly.module_phases is not None:
        extend(module, PhasedModule).module_phases = assembly.module_phases.build()
    if assembly.optimizer is not None:
        configured: Any = extend(module, ConfiguredOptimizers)
        configured.optimizer_part, configured.schedule_part = assembly.optimizer, assembly.schedule
    elif type(module).configure_optimizers is LightningModule.configure_optimizers:
        raise RefusedError(
            f"{assembly.plan.recipe.tree.place}: {type(module).__name__} configures no optimizer and the recipe has no "
            "section `optimizer`; add `optimizer: {name: adamw}`"
        )
    return module


def _attach_loss(module: Any, assembly: Assembly) -> None:
    if not (assembly.loss_terms or assembly.step):
        return
    if not isinstance(module, DecomposedLoss):
        raise RefusedError(
            f"{assembly.plan.place('model')}: {type(module).__name__} has only a training_step, and a feature of this "
            "run needs its loss taken apart; write `forward(batch)` and `loss(outputs, batch) -> (sum, count)` instead"
        )
    module.loss_terms = tuple(build(list(assembly.loss_terms), {}))
    if assembly.step is not None:
        module.step_executor = build(assembly.step, {})


def _datamodule(assembly: Assembly) -> LightningDataModule | None:
    if assembly.data is None:
        return None
    inner = _built(assembly, "data", assembly.data.args[0], LightningDataModule)
    made: LightningDataModule = Part(assembly.data.target, (inner,), assembly.data.kwargs).build()
    return made


def _built(assembly: Assembly, section: str, value: Any, kind: type) -> Any:
    return build_class(assembly.plan.recipe.tree.section(section), section, kind) if isinstance(value, Part) else value
