"""`trustformers-pl new recipe`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from trustformers_pl.errors import RecipeError

if TYPE_CHECKING:
    import argparse

MAIN_JOB = Path(__file__).with_name("main_job.yaml")
# What stands before the sections of plugins: the core has no Config to explain these.
EXPLAINED = {
    "version": "Of the recipe's format.",
    "seed": "Of everything random.",
    "model": "A LightningModule, and the arguments of its __init__.",
    "data": "A LightningDataModule, likewise. This one reads Python's own sources; to train on your own files, add\n"
    "folder: PATH to init_args.",
    "trainer": "Arguments of lightning.Trainer that no section owns. `trustformers-pl schema` lists them.",
}
HEADER = """\
# Train it: trustformers-pl fit {name}
#
# A section switches a feature on; without its section a feature is off. Each key that is commented out stands at its
# default. To switch a feature on, uncomment its section: take the first `# ` from each of its lines.
# See what will happen: trustformers-pl explain {name}
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Where to write it."""
    parser.add_argument("path", nargs="?", default="recipe.yaml", metavar="PATH", help="a new file (recipe.yaml)")


def run(options: argparse.Namespace, rest: list[str]) -> int:
    """Write the recipe, and tell what to do with it."""
    if rest:
        raise RecipeError(f"new recipe: {rest[0]} is not understood; it takes a PATH alone, change values in the file")
    path = Path(options.path)
    write_new(path, new_recipe(path.name))
    print(f"{path}: written. Next: trustformers-pl fit {path}")
    return 0


def new_recipe(name: str) -> str:
    """The main job as a recipe, with every installed section explained.

    Args:
        name: Of the file, for the commands in its header.
    """
    from trustformers_pl.recipe.commented import commented_sections
    from trustformers_pl.recipe.marked_yaml import read_file
    from trustformers_pl.recipe.places import plain
    from trustformers_pl.recipe.writing import as_yaml

    sections = plain(read_file(MAIN_JOB))
    core = [
        "".join(f"# {line}\n" for line in text.splitlines()) + as_yaml({key: sections.pop(key)})
        for key, text in EXPLAINED.items()
    ]
    return "\n".join([HEADER.format(name=name), *core, commented_sections(sections)])


def write_new(path: Path, text: str) -> None:
    """Write a file that is not there yet.

    Raises:
        RecipeError: It is there, or its folder cannot be written to.
    """
    try:
        with path.open("x", encoding="utf-8") as file:
            file.write(text)
    except FileExistsError as error:
        raise RecipeError(f"{path}: is there already, and is left as it is; give the path of a new file") from error
    except OSError as error:
        raise RecipeError(f"{path}: cannot be written ({error.strerror}); give another path") from error
