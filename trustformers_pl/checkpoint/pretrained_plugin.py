"""The section `pretrained`."""

from __future__ import annotations

from dataclasses import dataclass, field
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, ClassVar

from trustformers_pl.hookspecs import hookimpl
from trustformers_pl.parts import Part, part
from trustformers_pl.phases import ModulePhase
from trustformers_pl.plugins import Plugin

if TYPE_CHECKING:
    from collections.abc import Mapping

    from trustformers_pl.plan import Plan
    from trustformers_pl.run import Run


class PretrainedPlugin(Plugin):
    """Fine-tuning: a new run begins with the weights of another run, a checkpoint or a safetensors file."""

    example: ClassVar[Mapping[str, Any]] = MappingProxyType({"path": "trustformers_pl.testing:norm.safetensors"})

    @dataclass(frozen=True, kw_only=True)
    class Config:
        """The `pretrained` section."""

        path: str
        """A run folder, a checkpoint folder, a stock `.ckpt` or `.pt` file, a `.safetensors` file or a folder of
        them, or `package:file` for one that an installed package brings. A resumed run does not read it."""
        strict: bool = False
        """Refuse unless all tensors of the model and of the file match. Without it what fits is loaded, as a new head
        never fits; nothing at all is refused in any case."""
        prefix: str = ""
        """Take only the names in the file that begin with this, and take it off: `model.`."""
        rename: dict[str, str] = field(default_factory=dict)
        """Beginnings of names in the file and what stands in their place in the model: `{"backbone.": "encoder."}`."""

        def __post_init__(self) -> None:
            """Refuse what says nothing."""
            if not self.path:
                raise ValueError("path is empty; give the weights, or remove the section")

    config: Config

    @hookimpl
    def modify_module(self, plan: Plan, phase: ModulePhase) -> list[Part] | None:
        """The weights, once the module has all its parameters."""
        del plan
        if phase is not ModulePhase.MATERIALISE:
            return None
        config = self.config
        return [
            part(
                "trustformers_pl.checkpoint:Pretrained",
                config.path,
                strict=config.strict,
                prefix=config.prefix,
                rename=dict(config.rename),
            )
        ]

    @hookimpl
    def probe(self, run: Run) -> str | None:
        """How many tensors were loaded."""
        phases = getattr(run.module, "module_phases", None)
        transforms = phases.transforms[ModulePhase.MATERIALISE] if phases is not None else []
        for transform in transforms:
            match = getattr(transform.function, "match", None)
            if type(transform.function).__name__ == "Pretrained" and match is not None:
                return f"pretrained: {len(match.matched)} tensors from {self.config.path}"
        return None
