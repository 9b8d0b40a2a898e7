"""The small run's recipe is the same for every check, whatever the one before did with its own."""

from __future__ import annotations

import copy

from trustformers_pl.testing.sections import PLAIN, beside


def test_what_a_caller_changes_stays_its_own() -> None:
    before = copy.deepcopy(PLAIN)
    recipe = beside(steps=1)
    recipe["model"]["init_args"]["dropout"] = 0.0
    recipe["trainer"]["devices"] = 4
    assert before == PLAIN
