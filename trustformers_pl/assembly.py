"""From a plan to the parts of a run: every hook is called here, once, and nothing is built yet."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from trustformers_pl.errors import PluginError, RefusedError
from trustformers_pl.gradients import OURS_ALONE, GradientPhase, open_phases
from trustformers_pl.parts import Part, part
from trustformers_pl.phases import data_phases, module_phases
from trustformers_pl.plugins import trainer_argument_owners
from trustformers_pl.recipe.places import Section, plain
from trustformers_pl.refusals import refusals

if TYPE_CHECKING:
    from trustformers_pl.plan import Plan

# What a run does not do unless a section asks for it; Lightning's own defaults would add a progress bar, a logger and
# a ModelCheckpoint of their own.
QUIET_DEFAULTS = {"enable_progress_bar": False, "enable_checkpointing": False, "enable_model_summary": False}
# Our loaders share the samples out among the ranks themselves; the sampler that Lightning would inject shuffles always.
OWN_SHARDING = {"use_distributed_sampler": False}


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
        PluginError: A plugin sets a Trainer argument that is not its own.
    """
    live = live or Live()
    _refuse(plan, live)
    hook = plan.hook
    return Assembly(
        plan=plan,
        trainer=_trainer(plan),
        model=live.model if live.model is not None else class_part(plan, "model"),
        data=_resumable(plan, live.data if live.data is not None else class_part(plan, "data")),
        optimizer=live.optimizer if live.optimizer is not None else hook.optimizer(plan=plan),
        schedule=hook.lr_schedule(plan=plan),
        mixins=tuple(_collected(hook.module_mixins(plan=plan))),
        loss_terms=tuple(_collected(hook.loss_terms(plan=plan))),
        sample_weights=tuple(_collected(hook.sample_weights(plan=plan))),
        step=hook.step(plan=plan),
        ckpt_path=hook.ckpt_path(plan=plan),
        live=live,
        module_phases=module_phases(plan),
    )


def class_part(plan: Plan, section: str) -> Part | None:
    """The call that a `class_path` / `init_args` section stands for; None where there is no such section."""
    node = plan.recipe.tree.entries.get(section)
    return _class_part(plain(node)) if isinstance(node, Section) else None


def _class_part(value: Any) -> Any:
    if isinstance(value, dict) and isinstance(value.get("class_path"), str):
        module, _, name = value["class_path"].rpartition(".")
        return Part(f"{module}:{name}", (), {k: _class_part(v) for k, v in (value.get("init_args") or {}).items()})
    return [_class_part(item) for item in value] if isinstance(value, list) else value


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
    reasons = _collected(plan.hook.check(plan=plan))
    if lines or reasons:
        raise RefusedError("\n".join([*lines, *reasons]))


def _trainer(plan: Plan) -> Part:
    hook = plan.hook
    written = dict(plan.trainer)
    own_callbacks = [_class_part(item) for item in written.pop("callbacks", None) or []]
    callbacks = [*_collected(hook.callbacks(plan=plan)), *own_callbacks]
    precision = _precision(plan, written.pop("precision", None))
    environment = part("trustformers_pl.environment:cluster_environment")
    plugins = [environment, precision, *_collected(hook.plugins(plan=plan))]
    arguments = {
        "default_root_dir": str(plan.folder),
        **QUIET_DEFAULTS,
        **OWN_SHARDING,
        **written,
        **_owned_arguments(plan),
        "callbacks": callbacks,
        "logger": _collected(hook.loggers(plan=plan)) or False,
        "plugins": plugins,
    }
    strategy = _strategy(plan)
    if strategy is not None:
        arguments["strategy"] = strategy
    return part("trustformers_pl.loop:exact_loop", Part("lightning:Trainer", (), arguments))


def _precision(plan: Plan, name: str | int | None) -> Part:
    """The gradient order with the plugins' rules, in the precision that the recipe names."""
    rules = {phase.value: _collected(plan.hook.gradient(plan=plan, phase=phase)) for phase in GradientPhase}
    ours = [phase for phase in OURS_ALONE if rules[phase.value]]
    if ours:
        raise PluginError(
            f"a plugin has a rule for the gradient phase {ours[0].value!r}, which takes none; use one of "
            f"{', '.join(open_phases())}"
        )
    arguments: dict[str, Any] = {} if name is None else {"precision": name}
    added = {phase: tuple(found) for phase, found in rules.items() if found}
    return Part("trustformers_pl.precision_order:OrderedPrecision", (), arguments | ({"rules": added} if added else {}))


def _strategy(plan: Plan) -> Any:
    """The strategy of the run: a plugin's own, or a mesh of the dimensions that plugins contribute."""
    dimensions = _collected(plan.hook.mesh(plan=plan))
    mesh = part("trustformers_pl.mesh_strategy:MeshStrategy", dimensions) if dimensions else None
    return mesh or plan.hook.strategy(plan=plan)


def _owned_arguments(plan: Plan) -> dict[str, Any]:
    owners = trainer_argument_owners()
    arguments: dict[str, Any] = {}
    for implementation in plan.hook.trainer_arguments.get_hookimpls():
        name = implementation.plugin_name
        function: Any = implementation.function
        answer: dict[str, Any] = dict(function(*(plan for _ in implementation.argnames)) or {})
        for argument in answer:
            if name not in owners.get(argument, ()):
                raise PluginError(
                    f"plugin {name!r} sets trainer.{argument}, which its package does not declare to own; "
                    f"add the entry point `{argument}` to its group `trustformers_pl.trainer_arguments`"
                )
        arguments |= answer
    return arguments


def _collected(answers: list[Any]) -> list[Any]:
    return [item for answer in answers for item in answer or ()]
