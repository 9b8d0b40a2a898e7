"""The section `checkpoint`."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, Literal

from trustformers_pl.hookspecs import hookimpl
from trustformers_pl.parts import Part, part
from trustformers_pl.plugins import Plugin
from trustformers_pl.report import ReportSection, ReportTable
from trustformers_pl.traits import Slot, Trait, Traits

if TYPE_CHECKING:
    from collections.abc import Mapping

    from trustformers_pl.plan import Plan
    from trustformers_pl.run import Run


@dataclass(frozen=True, kw_only=True)
class Best:
    """The keys of `checkpoint.best`."""

    monitor: str | None = None
    """A metric that validations log, such as `val_loss`; without one, only the last checkpoints are kept."""
    mode: Literal["min", "max"] = "min"
    """Whether less of it is better, or more."""
    keep: int = 1
    """How many of the best checkpoints stay."""
    load_at_end: bool = False
    """When a fit has ended, put the best checkpoint's weights into the module. Then `validate`, `test`, `predict`,
    `generate` and `export` use the best checkpoint, too; a resume goes on from the last one all the same."""

    def __post_init__(self) -> None:
        """Refuse to keep none, and a best of nothing."""
        if self.keep < 1:
            raise ValueError("keep must be at least 1")
        if self.load_at_end and not self.monitor:
            raise ValueError("load_at_end needs a metric to choose by; add monitor")


class CheckpointPlugin(Plugin):
    """Checkpoints as verified folders, at step boundaries, from which a killed run goes on bit for bit."""

    @dataclass(frozen=True, kw_only=True)
    class Config:
        """The `checkpoint` section."""

        every_n_steps: int | None = 500
        """Optimizer steps between checkpoints; the last step always gets one. `null`: not by steps."""
        every_n_minutes: float | None = None
        """Minutes after a checkpoint until the next one is taken, at a step boundary; all ranks take it together."""
        keep_last: int = 2
        """Checkpoints that stay; older ones go once a newer one is safe. Two, so that a damaged one loses little."""
        best: Best = Best()
        """Checkpoints that are taken after the best validations, and stay besides the last ones."""
        background: bool = True
        """Write while training goes on, from a copy of the state in host memory; the result is the same. `false`: wait
        for each checkpoint, so that its errors are raised where it was taken."""

        def __post_init__(self) -> None:
            """Refuse what would never save, or keep nothing."""
            if (self.every_n_steps is not None and self.every_n_steps < 1) or self.keep_last < 1:
                raise ValueError("every_n_steps and keep_last must be at least 1")
            if self.every_n_minutes is not None and not self.every_n_minutes > 0:
                raise ValueError("every_n_minutes must be more than 0")

    config: Config

    @classmethod
    def traits(cls, config: Config) -> Traits:
        """It owns the run's checkpoints."""
        del config
        return Traits(claims=frozenset({Slot.CHECKPOINTS}), provides=frozenset({Trait.CHECKPOINTS}))

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
                **self._arguments(),
            ),
            part("trustformers_pl.faults:SignalSaves"),
            part("trustformers_pl.faults:EmergencySaves"),
        ]

    def _arguments(self) -> dict[str, Any]:
        written, best = self.written(), asdict(self.config.best)
        written.pop("best", None)
        load = {"load_best": True} if best.pop("load_at_end") else {}
        return {**written, "best": best, **load} if best["monitor"] else written

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
