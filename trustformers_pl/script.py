"""A run as the Python that a person would have written: what `explain` prints, and what one can paste and run."""

from __future__ import annotations

from textwrap import indent
from typing import TYPE_CHECKING, Any

from trustformers_pl.parts import Part, Script

if TYPE_CHECKING:
    from trustformers_pl.assembly import Assembly

WIDTH = 100


def python_source(assembly: Assembly) -> str:
    """A script that trains the same run: same parts, same order, same seed."""
    script = Script()
    body = [
        f"{script.name('lightning:seed_everything')}({assembly.plan.seed}, workers=True, verbose=False)",
        *_module_lines(assembly, script),
        *_data_lines(assembly, script),
        f"trainer = {_call(script, assembly.trainer)}",
        _fit_line(assembly, script),
    ]
    classes = _class_lines(assembly, script)
    return "\n".join([*script.import_lines(), "", *classes, *body]) + "\n"


def _class_lines(assembly: Assembly, script: Script) -> list[str]:
    """The composed class, with the `configure_optimizers` of the recipe."""
    if not isinstance(assembly.model, Part):
        return []
    mixins = _mixins(assembly)
    bases = [script.name(base) for base in (*mixins, assembly.model.target)]
    head = [f"\nclass Module({', '.join(bases)}):"]
    if assembly.optimizer is None:
        return [*head, "    pass", "", ""] if mixins else []
    body = [f"optimizer = {script.expression(assembly.optimizer, module='self')}"]
    if assembly.schedule is None:
        body.append('return {"optimizer": optimizer}')
    else:
        body += [
            "total_steps = int(self.trainer.estimated_stepping_batches)",
            f"schedule = {script.expression(assembly.schedule)}",
            'return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}',
        ]
    return [*head, "    def configure_optimizers(self):", indent("\n".join(body), " " * 8), "", ""]


def _module_lines(assembly: Assembly, script: Script) -> list[str]:
    lines = []
    if isinstance(assembly.model, Part):
        composed = _mixins(assembly) or assembly.optimizer is not None
        call = script.expression(assembly.model)
        lines.append(f"module = {'Module' + call[call.index('(') :] if composed else call}")
    if assembly.loss_terms:
        lines.append(f"module.loss_terms = {script.expression(assembly.loss_terms)}")
    if assembly.sample_weights:
        lines.append(f"module.sample_weights = {script.expression(assembly.sample_weights)}")
    if assembly.step is not None:
        lines.append(f"module.step_executor = {script.expression(assembly.step)}")
    if assembly.module_phases is not None:
        lines.append(f"module.module_phases = {_call(script, assembly.module_phases)}")
    return lines


def _mixins(assembly: Assembly) -> tuple[str, ...]:
    phased = () if assembly.module_phases is None else ("trustformers_pl.module_phases:PhasedModule",)
    return (*phased, *assembly.mixins)


def _data_lines(assembly: Assembly, script: Script) -> list[str]:
    return [] if assembly.data is None else [f"datamodule = {script.expression(assembly.data)}"]


def _fit_line(assembly: Assembly, script: Script) -> str:
    arguments = ["module"]
    if assembly.data is not None:
        arguments.append("datamodule=datamodule")
    if assembly.ckpt_path is not None:
        arguments.append(f"ckpt_path={script.expression(assembly.ckpt_path)}")
    return f"trainer.fit({', '.join(arguments)})"


def _call(script: Script, call: Any, depth: int = 0) -> str:
    """A call over several lines where one would be too long."""
    flat = script.expression(call)
    if len(flat) + 4 * depth <= WIDTH or not isinstance(call, Part | list):
        return flat
    pad = " " * 4 * (depth + 1)
    if isinstance(call, list):
        items = [_call(script, item, depth + 1) for item in call]
        opening, closing = "[", "]"
    else:
        items = [_call(script, arg, depth + 1) for arg in call.args]
        items += [f"{key}={_call(script, value, depth + 1)}" for key, value in call.kwargs.items()]
        opening, closing = f"{script.name(call.target)}(", ")"
    return opening + "".join(f"\n{pad}{item}," for item in items) + f"\n{' ' * 4 * depth}{closing}"
