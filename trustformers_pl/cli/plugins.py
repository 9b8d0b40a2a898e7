"""`trustformers-pl plugins`."""

from __future__ import annotations

from typing import TYPE_CHECKING

from trustformers_pl.cli.tables import print_table
from trustformers_pl.compatibility import verdict
from trustformers_pl.errors import PluginError, RecipeError
from trustformers_pl.plugins import Offer, discover, summary

if TYPE_CHECKING:
    import argparse
    from collections.abc import Iterable


def run(options: argparse.Namespace, overrides: list[str]) -> int:
    """One row a plugin: its name, what it is, its package, and whether the recipe switches it on.

    With `--with`, whether features can live in one run.
    """
    if options.features is not None:
        return _answer([name.strip() for name in options.features.split(",") if name.strip()])
    offers = discover()
    if not offers:
        raise PluginError("no plugins are installed, not even our own; install the package (`pip install .`)")
    switched_on = _switched_on(options.recipe, overrides) if options.recipe else None
    rows = [_row(offer, switched_on) for offer in offers.values()]
    header = ["NAME", "WHAT IT IS", "PACKAGE", "VERSION"]
    print_table(header if switched_on is None else [*header, "ON"], rows)
    return 0


def _answer(features: list[str]) -> int:
    """Say whether features can live in one run, by their declarations; 2 where they are refused."""
    if len(features) < 2:
        raise RecipeError("plugins --with: give two features or more, as in `--with ddp,csv`")
    answer = verdict(features)
    if answer.completed_by:
        print(f"with {', '.join(answer.completed_by)}, which they need")
    for reason in answer.reasons:
        print(f"refused: {reason}")
    if answer.together:
        print(f"together: {', '.join(features)} can live in one run")
    return 0 if answer.together else 2


def _row(offer: Offer, switched_on: set[str] | None) -> list[str]:
    row = [offer.name, _summary(offer), offer.package, offer.version]
    return row if switched_on is None else [*row, "on" if offer.name in switched_on else "off"]


def _summary(offer: Offer) -> str:
    try:
        return summary(offer.load())
    except PluginError as error:
        return f"broken: {str(error).rpartition('): ')[2]}"


def _switched_on(recipe: str, overrides: Iterable[str]) -> set[str]:
    from trustformers_pl.plan import make_plan
    from trustformers_pl.recipe import Recipe

    return {plugin.name for plugin in make_plan(Recipe.read(recipe, overrides)).plugins}
