"""A program is many runs: what one is, what it yields and what it is sent. Imports no torch."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal, Protocol

from trustformers_pl.errors import TrustformersError

if TYPE_CHECKING:
    from collections.abc import Generator, Mapping

    from trustformers_pl.plan import Plan

OUTPUT = "output.log"


@dataclass(frozen=True)
class Child:
    """One run of a program.

    Attributes:
        name: Letters, digits, `-` and `_`; unique in its program. The run's folder is `<program's folder>/<name>`, and
            its recipe `<program's folder>/<name>.yaml`.
        sections: Plain values, laid over the program's recipe as a recipe is over one that it `extends`; None takes a
            section out. The section that made the program is not part of a child.
    """

    name: str
    sections: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Outcome:
    """How a child ended.

    Attributes:
        name: The child's.
        status: `failed` if its process ended with an error or was killed.
        metrics: What the run's `outcome.json` holds: the last value of everything that was logged to
            `Trainer.callback_metrics`. Values may be NaN. Empty if it failed.
        folder: Its run folder, with its checkpoints.
        error: Why it failed, in one line.
    """

    name: str
    status: Literal["finished", "failed"]
    metrics: Mapping[str, float]
    folder: str
    error: str | None = None


class Program(Protocol):
    """A generator of children: fixed stages, a grid or a search that decides by what it has seen.

    An attribute `concurrent: int` says how many children of a batch run at once; without it, one after another.

    It must yield the same children whenever it is sent the same outcomes: it is played again after a kill. Draw random
    choices from a generator that `plan.seed` seeds.
    """

    def __call__(self, plan: Plan) -> Generator[list[Child], list[Outcome], Mapping[str, float] | None]:
        """Yield a batch of children and be sent their outcomes, in order, until there is nothing left to run.

        Args:
            plan: The program's own plan.

        Returns:
            The program's metrics, for the `outcome.json` of its own folder; None stands for its last child's.
        """


def all_finished(outcomes: list[Outcome]) -> list[Outcome]:
    """The same outcomes, for programs that cannot go on without them.

    `outcomes = all_finished((yield [child]))`

    Raises:
        TrustformersError: A child failed; the line names it and the cause.
    """
    for outcome in outcomes:
        if outcome.status == "failed":
            raise TrustformersError(
                f"child {outcome.name} failed: {outcome.error}; all it said is in {outcome.folder}/{OUTPUT}; "
                "mend this and call `fit` again, which runs nothing again that has finished"
            )
    return outcomes
