"""One training step as it will run: which feature does what, in which phase. Nothing is built for it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from trustformers_pl.answers import calls
from trustformers_pl.gradients import GradientPhase
from trustformers_pl.parts import Part, Script

if TYPE_CHECKING:
    from collections.abc import Mapping

    from trustformers_pl.assembly import Assembly
    from trustformers_pl.plan import Plan

ENGINE = "engine"
BY_ITSELF = {
    GradientPhase.SYNC: "gradients are summed over the data ranks during the backward pass",
    GradientPhase.UNSCALE: "the loss scale of 16-bit training is taken out",
    GradientPhase.DIVIDE: "sums are divided by the count of all micro-batches and ranks",
    GradientPhase.PENALTIES: "",
    GradientPhase.FINITE: "the norm is taken; what is not finite stops the run, or skips the step where a scaler is",
    GradientPhase.CLIP: "",
    GradientPhase.STEP: "",
    GradientPhase.EMA: "",
    GradientPhase.SCHEDULE: "",
}


@dataclass(frozen=True)
class Moment:
    """One line of the timeline.

    Attributes:
        phase: When.
        who: The feature, `model`, or `engine`.
        what: What happens.
    """

    phase: str
    who: str
    what: str


def timeline(assembly: Assembly) -> list[Moment]:
    """One training step, from the batch to the next one."""
    plan = assembly.plan
    moments = [
        Moment("batch", "data", _called(assembly.data.args[0]) if assembly.data is not None else "the module's loader"),
        *_forward(assembly),
        Moment("backward", ENGINE, "Lightning's backward, once a micro-batch"),
    ]
    for phase in GradientPhase:
        moments += _gradient(assembly, phase)
        if phase is GradientPhase.PENALTIES:
            moments.append(Moment("hooks", ENGINE, "on_before_optimizer_step of module and callbacks"))
    moments += [Moment("after", name, _called(item)) for name, item in answers(plan, "callbacks")]
    moments += [Moment("log", name, _called(item)) for name, item in answers(plan, "loggers")]
    return moments


def _forward(assembly: Assembly) -> list[Moment]:
    plan = assembly.plan
    executors = answers(plan, "step")
    moments = [Moment("step", name, f"{_called(item)} runs it") for name, item in executors]
    moments += [Moment("forward", "model", f"{_called(assembly.model)}: forward and loss")]
    moments += [
        Moment("loss", name, f"weighs samples: {_called(item)}") for name, item in answers(plan, "sample_weights")
    ]
    return moments + [Moment("loss", name, f"adds {_called(item)}") for name, item in answers(plan, "loss_terms")]


def _gradient(assembly: Assembly, phase: GradientPhase) -> list[Moment]:
    plan = assembly.plan
    what = {
        GradientPhase.CLIP: _clipping(assembly),
        GradientPhase.STEP: "the module's own optimizer" if assembly.optimizer is None else _called(assembly.optimizer),
        GradientPhase.SCHEDULE: _called(assembly.schedule) if assembly.schedule is not None else "",
    }.get(phase, BY_ITSELF[phase])
    moments = [Moment(phase.value, _owner(plan, phase), what)] if what else []
    return moments + [Moment(phase.value, name, _called(rule)) for name, rule in answers(plan, "gradient", phase=phase)]


def _owner(plan: Plan, phase: GradientPhase) -> str:
    """Whose the phase's own work is: a feature's that answers its hook or sets its argument, or the engine's."""
    if phase is GradientPhase.CLIP:
        return next(
            (name for name, answer in calls(plan, "trainer_arguments") if "gradient_clip_val" in (answer or ())), ENGINE
        )
    hook = {GradientPhase.STEP: "optimizer", GradientPhase.SCHEDULE: "lr_schedule"}.get(phase)
    return next((name for name, _ in answers(plan, hook)), ENGINE) if hook else ENGINE


def _clipping(assembly: Assembly) -> str:
    arguments = _trainer_arguments(assembly)
    value = arguments.get("gradient_clip_val")
    return f"by {arguments.get('gradient_clip_algorithm') or 'norm'}, to {value}" if value else ""


def _trainer_arguments(assembly: Assembly) -> Mapping[str, Any]:
    """Of the `lightning.Trainer` call inside `exact_loop(...)`."""
    trainer = assembly.trainer.args[0]
    return trainer.kwargs if isinstance(trainer, Part) else {}


def answers(plan: Plan, hook: str, **more: Any) -> list[tuple[str, Any]]:
    """What each plugin answers to a hook, in plugin order: pairs of its name and one item."""
    found = []
    for implementation in reversed(getattr(plan.hook, hook).get_hookimpls()):
        known = {"plan": plan, **more}
        answer = implementation.function(*(known[name] for name in implementation.argnames))
        items = answer if isinstance(answer, list | tuple) else [] if answer is None else [answer]
        found += [(str(implementation.plugin_name), item) for item in items]
    return found


def _called(item: Any) -> str:
    if isinstance(item, Part):
        return Script().expression(item)
    return getattr(item, "name", None) or getattr(item, "__name__", None) or type(item).__name__
