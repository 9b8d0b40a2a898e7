"""A child of a program as a run: its recipe, folder and digest."""

from __future__ import annotations

import hashlib
import json
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

from trustformers_pl.assembly import assemble_parts
from trustformers_pl.declared_program import declared_program
from trustformers_pl.errors import PluginError, RefusedError, TrustformersError
from trustformers_pl.plan import make_plan
from trustformers_pl.program import Child
from trustformers_pl.recipe.layers import put
from trustformers_pl.recipe.places import Leaf, Place, Section
from trustformers_pl.recipe.recipe import Recipe
from trustformers_pl.run_folder import portable, write_recipe

if TYPE_CHECKING:
    from pathlib import Path

    from trustformers_pl.declared_program import DeclaredProgram

NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_-]{0,99}")
# A child's recipe stands beside the program's own, whose name this is.
RESERVED_NAMES = ("recipe",)
FOLDER_KEY = "trainer.default_root_dir"


@dataclass(frozen=True)
class ChildRun:
    """What a child is started with.

    Attributes:
        name: The child's.
        recipe: The program's without its section, under the child's sections, with the child's folder.
        folder: The run folder.
        digest: sha256 of the recipe's values without the folder.
    """

    name: str
    recipe: Recipe
    folder: Path
    digest: str

    @property
    def recipe_file(self) -> Path:
        """Where its recipe is written for its process."""
        return self.folder.with_name(f"{self.name}.yaml")


def child_run(declared: DeclaredProgram, child: object) -> ChildRun:
    """Work out a child's recipe.

    Raises:
        PluginError: What was yielded is not a child that can be run.
        RecipeError: Its `version` is not ours.
    """
    child = _accepted(declared, child)
    place = Place(f"child {child.name}")
    under = declared.plan.written.under(child.sections, child.name, place)
    kept = Section(under.tree.place, {key: n for key, n in under.tree.entries.items() if key != declared.section})
    folder = declared.plan.folder / child.name
    recipe = Recipe(child.name, put(kept, FOLDER_KEY, Leaf(str(folder), place)), {}, under.removed)
    return ChildRun(child.name, recipe, folder, _digest(kept, child.name))


def check(run: ChildRun, section: str) -> None:
    """Have the child's recipe read and its features compared now, not after the children before it have run.

    Args:
        run: The child.
        section: The one that made the program.

    Raises:
        TrustformersError: As `assemble` would, each line under the child's name.
    """
    try:
        plan = make_plan(run.recipe)
        if section in plan.recipe.tree.entries:
            place = plan.place(section)
            raise RefusedError(f"{place}: {section} comes back by a section that stands for it; write {section} itself")
        if declared_program(plan) is None:
            assemble_parts(plan)
    except TrustformersError as error:
        lines = [f"child {run.name}: {line.removeprefix(f'child {run.name}: ')}" for line in str(error).splitlines()]
        raise type(error)("\n".join(lines)) from error


def write(run: ChildRun) -> None:
    """Write the recipe for the child's process, and make its folder.

    Raises:
        TrustformersError: They cannot be written.
    """
    tree, removed = run.recipe.tree, dict.fromkeys(sorted(run.recipe.removed), Leaf(None, run.recipe.tree.place))
    whole = Section(tree.place, {**tree.entries, **removed})
    write_recipe(run.recipe_file, whole, f"The child run `{run.name}`: `trustformers-pl fit` runs it alone.")
    run.folder.mkdir(exist_ok=True)


def _accepted(declared: DeclaredProgram, child: object) -> Child:
    whose = f"the program of {declared.plugin.name!r}"
    if not isinstance(child, Child):
        raise PluginError(f"{whose} yields {child!r}; it must yield lists of trustformers_pl.program.Child")
    if not NAME.fullmatch(child.name) or child.name in RESERVED_NAMES:
        raise PluginError(f"{whose} names a child {child.name!r}; use letters, digits, - and _, and not `recipe`")
    if FOLDER_KEY.partition(".")[2] in dict(child.sections.get("trainer") or {}):
        raise PluginError(f"{whose} sets {FOLDER_KEY} of child {child.name}; a child's folder is in the program's own")
    return child


def _digest(tree: Section, name: str) -> str:
    values = portable(tree)
    values.get("trainer", {}).pop(FOLDER_KEY.partition(".")[2], None)
    try:
        text = json.dumps(values, sort_keys=True)
    except TypeError as error:
        raise PluginError(
            f"child {name}: {error}; a child is a process of its own and its recipe a file, so give plain values"
        ) from error
    return hashlib.sha256(text.encode()).hexdigest()
