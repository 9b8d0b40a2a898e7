"""From the command's arguments to an assembled run."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable

    from trustformers_pl.run import Run


def opened(recipe: str, overrides: Iterable[str]) -> Run:
    """The run that the recipe declares; classes next to where the command is called can be named in it.

    Raises:
        TrustformersError: As `trustformers_pl.assemble` does.
    """
    from trustformers_pl.assembly import assemble_parts
    from trustformers_pl.declared_program import declared_program
    from trustformers_pl.plan import make_plan
    from trustformers_pl.recipe import Recipe

    local_classes()
    plan = make_plan(Recipe.read(recipe, overrides))
    program = declared_program(plan)
    if program is not None:
        from trustformers_pl.program_run import ProgramRun

        return ProgramRun(program)
    assembly = assemble_parts(plan)  # before torch: bad input is told at once
    from trustformers_pl.factory import build_run

    return build_run(assembly)


def local_classes() -> None:
    """Let recipes name classes next to where the command is called."""
    here = str(Path.cwd())
    if here not in sys.path:
        sys.path.insert(0, here)
