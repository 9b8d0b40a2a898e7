"""`trustformers-pl schema`."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

from trustformers_pl.recipe import Recipe
from trustformers_pl.recipe.schema import recipe_schema

if TYPE_CHECKING:
    import argparse


def run(options: argparse.Namespace, overrides: list[str]) -> int:
    """Print the schema of all recipes, or of those with the sections of one."""
    only = None if options.recipe is None else Recipe.read(options.recipe, overrides).tree.entries.keys()
    print(json.dumps(recipe_schema(only), indent=2, ensure_ascii=False, allow_nan=False))
    return 0
