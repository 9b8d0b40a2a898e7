"""The `lightning.Trainer` call of a run: what the recipe writes, what sections own, and what hooks fill."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from trustformers_pl.answers import Answer, answers, calls, items, owners
from trustformers_pl.class_parts import class_part
from trustformers_pl.errors import PluginError, RefusedError
from trustformers_pl.gradients import OURS_ALONE, GradientPhase, open_phases
from trustformers_pl.parts import Part, part
from trustformers_pl.plugins import trainer_argument_owners
from trustformers_pl.traits import Trait

if TYPE_CHECKING:
    from collections.abc import Mapping

    from trustformers_pl.plan import Plan

# What a run does not do unless a section asks for it; Lightning's own defaults would add a progress bar, a logger and
# a ModelCheckpoint of their own.
QUIET_DEFAULTS = {"enable_progress_bar": False, "enable_checkpointing": False, "enable_model_summary": False}
# Our loaders share the samples out among the ranks themselves; the sampler that Lightning would inject shuffles always.
OWN_SHARDING = {"use_distributed_sampler": False}
# Arguments that nobody may own, because an answer to `trainer_arguments` would be lost beside what fills them.
FILLED_OTHERWISE = {
    "callbacks": "answer the hook `callbacks`",
    "logger": "answer the hook `loggers`",
    "plugins": "answer the hook `plugins`",
    "strategy": "answer the hook `strategy` or `mesh`",
    "default_root_dir": "it is the run folder, which only the recipe names",
}
ENDS = {"max_epochs", "max_steps", "max_time"}
# Whose the parts are that no section brings.
ENGINE, WRITTEN = "", "trainer"


def trainer_part(plan: Plan) -> tuple[Part, dict[str, tuple[str, ...]]]:
    """The Trainer call, and for `callbacks`, `plugins` and `mesh` the section of each item in it.

    Raises:
        RefusedError: Two sections, or a section and the recipe, set one argument.
        PluginError: A plugin sets an argument that is not its own.
    """
    owned = _owned_arguments(plan)
    written = {**plan.trainer, **owned}
    own_callbacks = [Answer(WRITTEN, class_part(item)) for item in written.pop("callbacks", None) or []]
    callbacks = [*answers(plan, "callbacks"), *own_callbacks]
    environment = part("trustformers_pl.environment:cluster_environment")
    precision = _precision(plan, written.pop("precision", None))
    plugins = [Answer(ENGINE, environment), Answer(ENGINE, precision), *answers(plan, "plugins")]
    dimensions = answers(plan, "mesh")
    strategy = _strategy(plan, dimensions)
    arguments = {
        "default_root_dir": str(plan.folder),
        **QUIET_DEFAULTS,
        **OWN_SHARDING,
        **_end(plan),
        **written,
        "callbacks": items(callbacks),
        "logger": items(answers(plan, "loggers")) or False,
        "plugins": items(plugins),
    }
    if strategy is not None:
        arguments["strategy"] = strategy
    sections = {"callbacks": owners(callbacks), "plugins": owners(plugins), "mesh": owners(dimensions)}
    return part("trustformers_pl.loop:exact_loop", Part("lightning:Trainer", (), arguments)), sections


def _end(plan: Plan) -> dict[str, Any]:
    """No end, in place of Lightning's 1000 epochs, where a feature ends the training and the recipe does not."""
    ends = any(Trait.OWN_END in plugin.traits(plugin.config).provides for plugin in plan.plugins)
    return {"max_epochs": -1} if ends and not ENDS & plan.trainer.keys() else {}


def _precision(plan: Plan, given: Part | str | int | None) -> Part:
    """The gradient order with the plugins' rules, in the precision that the recipe names, or that its owner makes."""
    rules: dict[str, tuple[Any, ...]] = {}
    for phase in GradientPhase:
        found = answers(plan, "gradient", phase=phase)
        if found and phase in OURS_ALONE:
            raise PluginError(
                f"plugin {found[0].plugin!r} has a rule for the gradient phase {phase.value!r}, which takes none; "
                f"use one of {', '.join(open_phases())}"
            )
        if found:
            rules[phase.value] = tuple(items(found))
    named = {} if given is None else {"precision": given}
    made = given if isinstance(given, Part) else Part("trustformers_pl.precision_order:OrderedPrecision", (), named)
    return Part(made.target, made.args, {**made.kwargs, **({"rules": rules} if rules else {})})


def _strategy(plan: Plan, dimensions: list[Answer]) -> Any:
    """The strategy of the run: a plugin's own, or a mesh of the dimensions that plugins contribute."""
    made = [Answer(plugin, given) for plugin, given in calls(plan, "strategy") if given is not None]
    if dimensions:
        mesh = part("trustformers_pl.mesh_strategy:MeshStrategy", items(dimensions))
        made = [Answer(plugin, mesh) for plugin in owners(dimensions)]
    if made and plan.trainer.get("strategy", "auto") != "auto":
        place = plan.recipe.tree.section("trainer").entries["strategy"].place
        makers = " and ".join(dict.fromkeys(owners(made)))
        raise RefusedError(
            f"{place}: trainer.strategy is written, and {makers} makes the strategy of this run; remove one of the two"
        )
    return made[0].item if made else None


def _owned_arguments(plan: Plan) -> dict[str, Any]:
    owned_by = trainer_argument_owners()
    arguments: dict[str, Any] = {}
    setters: dict[str, str] = {}
    for plugin, answer in calls(plan, "trainer_arguments"):
        for argument, value in dict(answer or {}).items():
            _refuse_foreign(plugin, argument, owned_by)
            first = setters.setdefault(argument, plugin)
            if arguments.setdefault(argument, value) != value:
                raise RefusedError(
                    f"{plan.place(plugin)}: {first} sets trainer.{argument} to {arguments[argument]!r}, and {plugin} "
                    f"to {value!r}; remove one of the two sections, or let them agree"
                )
    return arguments


def _refuse_foreign(plugin: str, argument: str, owned_by: Mapping[str, list[str]]) -> None:
    if argument in FILLED_OTHERWISE:
        raise PluginError(f"plugin {plugin!r} sets trainer.{argument}: {FILLED_OTHERWISE[argument]}")
    if plugin not in owned_by.get(argument, ()):
        raise PluginError(
            f"plugin {plugin!r} sets trainer.{argument}, which its package does not declare to own; "
            f"add the entry point `{argument}` to its group `trustformers_pl.trainer_arguments`"
        )
