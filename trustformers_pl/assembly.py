"""From a plan to the parts of a run: every hook is called here, once, and nothing is built yet."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from trustformers_pl.answers import answers, items, once, owners
from trustformers_pl.class_parts import section_part
from trustformers_pl.errors import RefusedError
from trustformers_pl.parts import Part, part
from trustformers_pl.phases import data_phases, module_phases
from trustformers_pl.refusals import refusals
from trustformers_pl.trainer_part import trainer_part

if TYPE_CHECKING:
    from collections.abc import Mapping

    from trustformers_pl.plan import Plan


@dataclass(frozen=True)
class Assembly:
    """The parts of a run, as declared by its plugins.

    Attributes:
        plan: What they were declared from.
        trainer: The `lightning.Trainer` call.
        model: The LightningModule: a part, or a live one.
        data: The LightningDataModule: a part, or a live one; None where the model brings its own loaders.
        optimizer: A part with the free variable `module`, a live optimizer, or None: the module configures its own.
        schedule: A part with the free variables `optimizer` and `total_steps`, or None.
        mixins: Further bases of the module's class, as `package.module:Class`.
        loss_terms: Additions to the module's loss.
        sample_weights: Factors of each sample's loss.
        step: The owner of the `step` slot, or None for the sequential one.
        ckpt_path: A part that builds to the checkpoint to go on from, or None.
        live: What was given as objects.
        module_phases: A part that builds to the `ModulePhases` of the module, or None.
        sections: For `callbacks`, `plugins`, `mesh`, `module_mixins` and `loss_terms`, the section of each item.
    """

    plan: Plan
    trainer: Part
    model: Any
    data: Any
    optimizer: Any
    schedule: Part | None
    mixins: tuple[str, ...] = ()
    loss_terms: tuple[Any, ...] = ()
    sample_weights: tuple[Any, ...] = ()
    step: Any = None
    ckpt_path: Part | None = None
    live: Live = field(default_factory=lambda: Live())
    module_phases: Part | None = None
    sections: Mapping[str, tuple[str, ...]] = field(default_factory=dict)


@dataclass(frozen=True)
class Live:
    """Objects that exist already and take the place of sections."""

    model: Any = None
    data: Any = None
    optimizer: Any = None
    provides: frozenset[str] = field(default_factory=frozenset)


def assemble_parts(plan: Plan, live: Live | None = None) -> Assembly:
    """Call the plugins' hooks and collect what they answer.

    Raises:
        RefusedError: Features that cannot live together, or a section that a live object already fills.
        PluginError: A plugin sets a Trainer argument that is not its own, or has a rule in a phase that takes none.
    """
    live = live or Live()
    _refuse(plan, live)
    hook = plan.hook
    trainer, sections = trainer_part(plan)
    mixins = once(answers(plan, "module_mixins"))
    loss_terms = answers(plan, "loss_terms")
    return Assembly(
        plan=plan,
        trainer=trainer,
        model=live.model if live.model is not None else section_part(plan, "model"),
        data=_resumable(plan, live.data if live.data is not None else section_part(plan, "data")),
        optimizer=live.optimizer if live.optimizer is not None else hook.optimizer(plan=plan),
        schedule=hook.lr_schedule(plan=plan),
        mixins=tuple(items(mixins)),
        loss_terms=tuple(items(loss_terms)),
        sample_weights=tuple(items(answers(plan, "sample_weights"))),
        step=hook.step(plan=plan),
        ckpt_path=hook.ckpt_path(plan=plan),
        live=live,
        module_phases=module_phases(plan),
        sections={**sections, "module_mixins": owners(mixins), "loss_terms": owners(loss_terms)},
    )


def _resumable(plan: Plan, data: Any) -> Part | None:
    phases = data_phases(plan)
    if data is None and phases:
        raise RefusedError(
            f"{plan.recipe.tree.place}: no section `data`, and features of this run change the data "
            f"({', '.join(phases)}); give the loaders as a LightningDataModule in `data: {{class_path: ...}}`"
        )
    if data is None:
        return None
    arguments: dict[str, Any] = {"phases": phases} if phases else {}
    return part("trustformers_pl.data:resumable_datamodule", data, seed=plan.seed, **arguments)


def _refuse(plan: Plan, live: Live) -> None:
    lines = refusals(plan, live.provides)
    for name in ("model", "data", "optimizer"):
        if getattr(live, name) is not None and name in plan.recipe.tree.entries:
            lines.append(f"{plan.place(name)}: {name} was also given as an object; give one of the two")
    if live.model is None and "model" not in plan.recipe.tree.entries:
        lines.append(f"{plan.recipe.tree.place}: no section `model`; add `model: {{class_path: my_package.MyModule}}`")
    reasons = items(answers(plan, "check"))
    if lines or reasons:
        raise RefusedError("\n".join([*lines, *reasons]))
