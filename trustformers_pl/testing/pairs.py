"""Two features in one run: both take part, or they are refused with a reason. There is no third outcome."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import combinations
from typing import TYPE_CHECKING

from trustformers_pl.compatibility import example_of, verdict
from trustformers_pl.errors import RefusedError
from trustformers_pl.plugins import discover
from trustformers_pl.testing.sections import beside
from trustformers_pl.testing.trial import finite, train

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

    from trustformers_pl.testing.sections import Sections
    from trustformers_pl.testing.trial import Trial


@dataclass(frozen=True)
class Outcome:
    """What came of two features in one run.

    Attributes:
        reason: Why they were refused; empty if they trained.
        evidence: By feature, what its `probe` saw.
    """

    reason: str
    evidence: dict[str, str | None]


def pairs(features: Iterable[str] | None = None) -> list[tuple[str, str]]:
    """Every unordered pair of features, by default of all that are installed, in the order of their names."""
    return list(combinations(sorted(discover() if features is None else features), 2))


def try_pair(one: str, other: str, folder: Path, *added: Sections) -> Outcome:
    """Train the small run with both features, each with its example, and hold them to what they declare.

    Args:
        one: A feature.
        other: Another.
        folder: The run folder.
        added: Sections that take the place of the examples, or that the two need beside them.

    Raises:
        AssertionError: They train although they declare that they cannot, or the other way round; one of them left no
            evidence; the weights are not finite.
    """
    declared = verdict([one, other], {name: section for more in added for name, section in more.items()})
    if not declared.together and one.partition(".")[0] == other.partition(".")[0]:
        return Outcome("; ".join(declared.reasons), {})  # no recipe can name both
    sections = beside(*map(example_of, (*declared.completed_by, one, other)), *added)
    reason, trial = _trained(sections, folder)
    assert declared.together or reason, f"{one} and {other} train, but declare that they cannot: {declared.reasons[0]}"
    if trial is None:
        assert not declared.together, f"{one} and {other} declare nothing against each other, but are refused: {reason}"
        return Outcome(reason, {})
    evidence = {name: trial.evidence.get(name) for name in (one, other)}
    ignored = [name for name, found in evidence.items() if not found]
    assert not ignored, f"{' and '.join(ignored)} left no evidence of taking part in a run of {one} and {other}"
    assert not (bad := finite(trial.run.module)), f"{one} with {other}: not finite: {', '.join(bad)}"
    return Outcome("", evidence)


def _trained(sections: Sections, folder: Path) -> tuple[str, Trial | None]:
    """Why a recipe was refused, or its training."""
    try:
        return "", train(sections, folder)
    except RefusedError as error:
        return str(error), None
