"""The section `checkpoint`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from trustformers_pl.hookspecs import hookimpl
from trustformers_pl.parts import Part, part
from trustformers_pl.plugins import Plugin
from trustformers_pl.report import ReportSection, ReportTable
from trustformers_pl.traits import Slot, Traits

if TYPE_CHECKING:
    from collections.abc import Mapping

    from trustformers_pl.plan import Plan
    from trustformers_pl.run import Run


class CheckpointPlugin(Plugin):
    """Checkpoints as verified folders, at step boundaries, from which a killed run goes on bit for bit."""

    @dataclass(frozen=True, kw_only=True)
    class Config:
        """The `checkpoint` section."""

        every_n_steps: int = 500
        """Optimizer steps between checkpoints; the last step always gets one."""
        keep_last: int = 2
        """Checkpoints that stay; older ones go once a newer one is safe. Two, so that a damaged one loses little."""

        def __post_init__(self) -> None:
            """Refuse what would never save, or keep nothing."""
            if self.every_n_steps < 1 or self.keep_last < 1:
                raise ValueError("every_n_steps and keep_last must be at least 1")

    config: Config

    @classmethod
    def traits(cls, config: Config) -> Traits:
        """It owns the run's checkpoints."""
        del config
        return Traits(claims=frozenset({Slot.CHECKPOINTS}))

    @hookimpl
    def trainer_arguments(self, plan: Plan) -> Mapping[str, Any]:
        """Lightning must know that checkpoints are meant."""
        del plan
        return {"enable_checkpointing": True}

    @hookimpl
    def plugins(self, plan: Plan) -> list[Part]:
        """The folder format."""
        del plan
        return [part("trustformers_pl.checkpoint:FolderCheckpointIO")]

    @hookimpl
    def callbacks(self, plan: Plan) -> list[Part]:
        """When to save, and what to keep; and that a run which is told to end saves first."""
        return [
            part(
                "trustformers_pl.checkpoint:Checkpoint",
                folder=str(plan.folder / "checkpoints"),
                every_n_steps=self.config.every_n_steps,
                keep_last=self.config.keep_last,
            ),
            part("trustformers_pl.faults:SignalSaves"),
            part("trustformers_pl.faults:EmergencySaves"),
        ]

    @hookimpl
    def ckpt_path(self, plan: Plan) -> Part:
        """The newest whole checkpoint of the run folder."""
        return part("trustformers_pl.checkpoint:resume_path", str(plan.folder / "checkpoints"))

    @hookimpl
    def probe(self, run: Run) -> str | None:
        """The checkpoints that are there."""
        names = sorted(path.name for path in (run.folder / "checkpoints").glob("step-*"))
        return f"checkpoints: {', '.join(names)}" if names else None

    @hookimpl
    def report(self, run: Run) -> list[ReportSection]:
        """The checkpoints that are there."""
        folders = sorted((run.folder / "checkpoints").glob("step-*"))
        sizes = [sum(file.stat().st_size for file in folder.iterdir()) for folder in folders]
        rows = [(folder.name, round(size / 2**20, 1)) for folder, size in zip(folders, sizes, strict=True)]
        return [ReportSection("Checkpoints", table=ReportTable(["checkpoint", "MiB"], rows), source="checkpoints")]
