"""From the parts to a run: models, data and Trainer are built here, and nothing is started."""

from __future__ import annotations

import inspect
from typing import TYPE_CHECKING, Any

import torch
from lightning import LightningDataModule, LightningModule, seed_everything

from trustformers_pl.agreement import statements
from trustformers_pl.assembly import Assembly, Live, assemble_parts
from trustformers_pl.clashes import refuse_term_clashes, refuse_trainer_clashes
from trustformers_pl.compose import extend, plain_again, user_class
from trustformers_pl.declared_program import declared_program
from trustformers_pl.decomposed import DecomposedLoss
from trustformers_pl.deferred import DeferredModule, build_deferred, deferred_record
from trustformers_pl.errors import RefusedError
from trustformers_pl.foreign_errors import as_our_own
from trustformers_pl.frozen_parts import with_parts
from trustformers_pl.mixin_clashes import mix_in, passes_on
from trustformers_pl.module_phases import PhasedModule
from trustformers_pl.optimization import ConfiguredOptimizers
from trustformers_pl.parts import Part, build
from trustformers_pl.plan import make_plan
from trustformers_pl.program_run import ProgramRun
from trustformers_pl.quiet import quiet_lightning
from trustformers_pl.recipe import Recipe
from trustformers_pl.recipe.classes import build_class
from trustformers_pl.refusals import refusals
from trustformers_pl.run import Run
from trustformers_pl.term_refusals import refuse_terms
from trustformers_pl.traits import Trait

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

    Returns:
        A run; of a recipe that is a program, a `ProgramRun`.

    Raises:
        RecipeError: The recipe cannot be read as meant: unknown names, wrong types, a class that cannot be built.
        RefusedError: Features that cannot live in one run, or not with this model.
        PluginError: A plugin that the recipe names is broken.
    """
    if not isinstance(recipe, Recipe):
        is_file = not hasattr(recipe, "keys")
        recipe = Recipe.read(recipe, overrides) if is_file else Recipe.from_mapping(recipe)  # type: ignore[arg-type]
    plan = make_plan(recipe)
    program = declared_program(plan, live)
    return build_run(assemble_parts(plan, live)) if program is None else ProgramRun(program)


def build_run(assembly: Assembly) -> Run:
    """Build what `assemble_parts` declared, seeded by the recipe's seed."""
    with quiet_lightning():
        seed_everything(assembly.plan.seed, workers=True, verbose=False)
        trainer = _trainer(assembly)
        trainer.fit_loop.epoch_loop.statements = statements(assembly.plan)
        module = build_module(assembly)
        refuse_terms(module, trainer.accumulate_grad_batches)
        return Run(assembly, trainer, module, _datamodule(assembly))


def _trainer(assembly: Assembly) -> Trainer:
    (call,) = assembly.trainer.args
    with as_our_own(assembly.plan.place("trainer")):
        arguments: dict[str, Any] = build(call.kwargs, {})
        refuse_trainer_clashes(assembly, arguments)
        trainer: Trainer = Part(assembly.trainer.target, (Part(call.target, (), arguments),)).build()
    return trainer


def build_module(assembly: Assembly) -> LightningModule:
    """The module with the features' mixins, loss terms and optimizer.

    Raises:
        RecipeError: The class cannot be built.
        RefusedError: The module does not provide what a feature needs, or two features' additions to it clash.
    """
    module = _model(assembly)
    if not isinstance(module, LightningModule):
        raise RefusedError(
            f"model: {type(module).__name__} is not a LightningModule; subclass lightning.LightningModule"
        )
    plain_again(module)
    if deferred_record(module) is not None:
        extend(module, DeferredModule)
    mix_in(module, assembly)
    with_parts(module)
    if callable(getattr(module, "loss", None)) and type(module).training_step is LightningModule.training_step:
        extend(module, DecomposedLoss)
    _refuse(module, assembly)
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


def _model(assembly: Assembly) -> Any:
    def build() -> Any:
        return _built(assembly, "model", assembly.model, LightningModule)

    asked = any(Trait.DEFERRED_VALUES in plugin.traits(plugin.config).provides for plugin in assembly.plan.plugins)
    if not asked or not isinstance(assembly.model, Part) or torch.get_default_device().type == "meta":
        return build()
    return build_deferred(build)


def _attach_loss(module: Any, assembly: Assembly) -> None:
    if isinstance(module, DecomposedLoss):
        module.loss_terms = build(assembly.loss_terms, {})
        refuse_term_clashes(assembly, module.loss_terms)
        module.sample_weights = build(assembly.sample_weights, {})
        if assembly.step is not None:
            module.step_executor = build(assembly.step, {})


def _refuse(module: LightningModule, assembly: Assembly) -> None:
    """What only the module itself can tell: whether it provides what the features need."""
    name = user_class(type(module)).__name__
    lines = refusals(assembly.plan, assembly.live.provides | module_traits(module), name)
    if lines:
        raise RefusedError("\n".join(lines))


def module_traits(module: LightningModule) -> frozenset[str]:
    """The traits that a module provides."""
    if not isinstance(module, DecomposedLoss) or not _reaches_decomposed_step(type(module)):
        return frozenset()
    return frozenset({Trait.DECOMPOSED_LOSS, *([Trait.SAMPLE_WEIGHTS] if _takes_weights(module) else [])})


def _takes_weights(module: Any) -> bool:
    """Whether its `loss` does; a mixin's that has `passes_weights_on` hands them to the next one."""
    losses = [vars(cls)["loss"] for cls in type(module).__mro__ if "loss" in vars(cls)]
    own = next((loss for loss in losses if not getattr(loss, "passes_weights_on", False)), module.loss)
    return "sample_weights" in inspect.signature(own).parameters


def _reaches_decomposed_step(cls: type) -> bool:
    """Whether `DecomposedLoss.training_step` is called, and with it the loss terms and the step executor."""
    above = cls.__mro__[: cls.__mro__.index(DecomposedLoss)]
    return all(passes_on(one, "training_step") for one in above if "training_step" in vars(one))


def _datamodule(assembly: Assembly) -> LightningDataModule | None:
    if assembly.data is None:
        return None
    inner = _built(assembly, "data", assembly.data.args[0], LightningDataModule)
    made: LightningDataModule = Part(assembly.data.target, (inner,), assembly.data.kwargs).build()
    return made


def _built(assembly: Assembly, section: str, value: Any, kind: type) -> Any:
    return build_class(assembly.plan.recipe.tree.section(section), section, kind) if isinstance(value, Part) else value
