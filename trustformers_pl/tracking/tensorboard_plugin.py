"""The section `tensorboard`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from trustformers_pl.extras import lacking
from trustformers_pl.hookspecs import hookimpl
from trustformers_pl.parts import Part, part
from trustformers_pl.plugins import Plugin
from trustformers_pl.recipe.places import flatten

if TYPE_CHECKING:
    from trustformers_pl.plan import Plan
    from trustformers_pl.run import Run


class TensorBoardPlugin(Plugin):
    """TensorBoard event files, `tensorboard` in the run folder, with the recipe as hyperparameters."""

    @dataclass(frozen=True, kw_only=True)
    class Config:
        """The `tensorboard` section."""

        folder: str = "tensorboard"
        """The folder of the event files, in the run folder."""

    config: Config

    @hookimpl
    def check(self, plan: Plan) -> list[str]:
        """Whether the library is there."""
        return lacking(plan, "tensorboard", ["tensorboard"])

    @hookimpl
    def loggers(self, plan: Plan) -> list[Part]:
        """The logger."""
        folder = str(plan.folder / self.config.folder)
        values = {key: _value(leaf.value) for key, leaf in flatten(plan.resolved).items()}
        return [part("trustformers_pl.tracking:TensorBoardLogger", folder, hyperparameters=values)]

    @hookimpl
    def probe(self, run: Run) -> str | None:
        """How many rows were written."""
        rows = sum(logger.rows for logger in run.trainer.loggers if type(logger).__name__ == "TensorBoardLogger")  # type: ignore[attr-defined]
        files = list((run.folder / self.config.folder).glob("events.out.tfevents.*"))
        return f"wrote {rows} rows" if rows and files else None


def _value(value: Any) -> Any:
    """As TensorBoard can hold it: a number, a word, or text."""
    return value if isinstance(value, bool | int | float | str) else str(value)
