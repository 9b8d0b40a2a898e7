"""Recipes in the page: every value with its origin, and what differs between runs."""

from __future__ import annotations

from typing import TYPE_CHECKING

from trustformers_pl.reporting.markup import table, tag, text

if TYPE_CHECKING:
    from collections.abc import Sequence

    from trustformers_pl.report import Cell
    from trustformers_pl.reporting.folder import RunFolder

DEFAULT = "default"
ABSENT = "not there"
# Where a run lives does not change what it computes.
NOT_COMPARED = ("trainer.default_root_dir",)


def recipe_table(run: RunFolder) -> str:
    """Value and origin of every key; those that are defaults can be folded away."""
    rows: list[list[Cell]] = [[key, value, origin] for key, value, origin in run.recipe]
    defaults = {(r, 0): DEFAULT for r, row in enumerate(rows) if row[2] == DEFAULT}
    switch = '<label class="switch"><input type="checkbox" data-hides="default"> only what was written</label>'
    features = [[name, what, package] for name, what, package in run.record.get("features") or []]
    order = tag("h3", "Features, in the order of their hooks") + table(["feature", "what it is", "package"], features)
    return (
        (switch if defaults else "")
        + table(["key", "value", "from"], rows, marked=defaults)
        + (order if features else "")
    )


def differences(runs: Sequence[RunFolder]) -> list[list[str]]:
    """Rows of a key and each run's value, of the keys that are not equal everywhere."""
    values = [{key: value for key, value, _ in run.recipe if key not in NOT_COMPARED} for run in runs]
    keys = dict.fromkeys(key for run in values for key in run)
    rows = [[key, *(run.get(key, ABSENT) for run in values)] for key in keys]
    return [row for row in rows if len(set(row[1:])) > 1]


def differences_table(runs: Sequence[RunFolder]) -> str:
    """What differs between the recipes of several runs."""
    rows = differences(runs)
    if not rows:
        return tag("p", text("The recipes are equal."), class_="note")
    return table(["key", *(run.label for run in runs)], rows)
