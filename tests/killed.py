"""A run that SIGKILL ends after a step, and that is called again, beside one that was left alone: with the same bits."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from trustformers_pl.testing import Ranks
from trustformers_pl.testing.on_ranks import RankTrial, train_and_die, train_on_rank
from trustformers_pl.testing.trial import Trial, differences, train

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path


def resumed(sections: Mapping[str, Any], folder: Path, step: int) -> tuple[Trial, Trial]:
    """The run that was left alone, and the one that was killed after a step, both in this process."""
    whole = train(sections, folder / "whole")
    Ranks().run_until_killed(1, train_and_die, sections, str(folder / "killed"), step)
    again = train(sections, folder / "killed")
    assert not differences(whole.state | whole.logged, again.state | again.logged)
    return whole, again


def resumed_on_ranks(ranks: int, sections: Mapping[str, Any], folder: Path, step: int) -> tuple[RankTrial, RankTrial]:
    """What rank 0 says of both."""
    whole = Ranks().run(ranks, train_on_rank, sections, str(folder / "whole"))[0]
    Ranks().run_until_killed(ranks, train_and_die, sections, str(folder / "killed"), step)
    again = Ranks().run(ranks, train_on_rank, sections, str(folder / "killed"))[0]
    assert not differences(whole.state | whole.logged, again.state | again.logged)
    return whole, again
