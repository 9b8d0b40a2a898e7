"""`trustformers-pl explain`."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any, cast

from trustformers_pl.assembly import Assembly, assemble_parts
from trustformers_pl.cli.built import print_built
from trustformers_pl.cli.tables import print_table
from trustformers_pl.declared_program import declared_program
from trustformers_pl.plan import Plan, make_plan
from trustformers_pl.plugins import summary
from trustformers_pl.recipe import Recipe
from trustformers_pl.recipe.places import flatten
from trustformers_pl.script import python_source
from trustformers_pl.timeline import timeline

if TYPE_CHECKING:
    import argparse

    from trustformers_pl.declared_program import DeclaredProgram


def run(options: argparse.Namespace, overrides: list[str]) -> int:
    """Print the values with their origins, the features in order, a step's timeline, and the run as Python.

    Nothing is built without `--build`.
    """
    plan = make_plan(Recipe.read(options.recipe, overrides))
    program = declared_program(plan)
    assembly = assemble_parts(plan) if program is None else None
    _print_values(plan)
    print()
    _print_plugins(plan)
    print()
    if assembly is None:
        _print_program(cast("DeclaredProgram", program))
        return 0
    _print_timeline(assembly)
    print()
    _print_source(assembly)
    if options.build:
        print()
        print_built(assembly)
    return 0


def _print_values(plan: Plan) -> None:
    rows = [[key, _shown(leaf.value), str(leaf.place)] for key, leaf in flatten(plan.resolved).items()]
    print_table(["VALUE", "IS", "FROM"], rows)


def _print_plugins(plan: Plan) -> None:
    rows = []
    for number, plugin in enumerate(plan.plugins, 1):
        offer = plan.offers[plugin.name]
        rows.append([str(number), plugin.name, summary(type(plugin)), offer.package, offer.version])
    print_table(["", "FEATURE, IN ORDER", "WHAT IT IS", "PACKAGE", "VERSION"], rows)


def _print_program(program: DeclaredProgram) -> None:
    origin = program.plan.offers[program.plugin.name]
    print(
        f"A program, by {program.plugin.name} of {origin.package} {origin.version}: `fit` runs children of this recipe "
        f"without its section {program.section}, in {program.plan.folder}/<child>; explain one by its <child>.yaml."
    )


def _print_timeline(assembly: Assembly) -> None:
    print_table(["A TRAINING STEP", "WHO", "WHAT"], [[m.phase, m.who, m.what] for m in timeline(assembly)])


def _print_source(assembly: Assembly) -> None:
    print("# The same run as Python:")
    print(python_source(assembly), end="")


def _shown(value: Any) -> str:
    try:
        return json.dumps(value, ensure_ascii=False)
    except TypeError:
        return str(value)
