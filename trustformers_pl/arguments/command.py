"""`trustformers-pl import hf FILE` and `trustformers-pl import deepspeed FILE`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from trustformers_pl.arguments.as_recipe import as_recipe
from trustformers_pl.arguments.deepspeed import from_deepspeed
from trustformers_pl.arguments.hf import from_hf
from trustformers_pl.cli.new_recipe import write_new
from trustformers_pl.errors import RecipeError

if TYPE_CHECKING:
    import argparse

    from trustformers_pl.arguments.draft import Draft

KINDS = {
    "hf": "transformers' TrainingArguments, as `args.to_json_string()` writes them",
    "deepspeed": "a DeepSpeed configuration, ds_config.json",
}
DEVICES = {
    "hf": "ranks that will train: batches there are per device, here over all (1)",
    "deepspeed": "ranks that will train (what the batch sizes multiply to, or 1)",
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """A parser for each kind of configuration."""
    parser.description = "Write a recipe from another trainer's configuration, and list what it cannot say."
    kinds = parser.add_subparsers(dest="kind", required=True, metavar="KIND")
    for kind, summary in KINDS.items():
        sub = kinds.add_parser(kind, help=summary, description=f"Write a recipe from {summary}.", allow_abbrev=False)
        sub.add_argument("file", metavar="FILE", help="a JSON file")
        sub.add_argument("-o", "--out", metavar="PATH", help="a new file (without it, the recipe is printed)")
        sub.add_argument("--devices", metavar="N", type=int, help=DEVICES[kind])
        sub.add_argument("--extends", metavar="RECIPE", help="a recipe with the model and the data, beside the new one")


def run(options: argparse.Namespace, rest: list[str]) -> int:
    """Write or print the recipe, and tell what was left.

    Raises:
        RecipeError: The file cannot be read as such a configuration, or the new one is there already.
    """
    if rest:
        raise RecipeError(f"import: {rest[0]} is not understood; change values in the recipe that it writes")
    if options.devices is not None and options.devices < 1:
        raise RecipeError(f"--devices={options.devices}: expected at least 1")
    draft = _draft(options)
    command = f"trustformers-pl import {options.kind} {options.file}"
    command += f" --devices={options.devices}" if options.devices else ""
    text = as_recipe(draft, command, options.extends)
    if options.out is None:
        print(text, end="")
        return 0
    write_new(Path(options.out), text)
    print(f"{options.out}: written, with {len(draft.values)} values; {len(draft.left)} not carried over", end="")
    print("".join(f"\n  {left.name} = {json.dumps(left.value)}: {left.why}" for left in draft.left))
    return 0


def _draft(options: argparse.Namespace) -> Draft:
    values = _read(Path(options.file))
    try:
        if options.kind == "hf":
            return from_hf(values, devices=options.devices or 1)
        return from_deepspeed(values, devices=options.devices)
    except RecipeError as error:
        raise RecipeError(f"{options.file}: {error}") from error


def _read(path: Path) -> dict[str, Any]:
    if path.suffix == ".bin":
        raise RecipeError(
            f"{path}: is a pickle, which is not read; write `args.to_json_string()` to a file, and give that"
        )
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise RecipeError(f"{path}: {error.strerror}; give a JSON file") from error
    except (UnicodeDecodeError, ValueError, RecursionError) as error:
        raise RecipeError(f"{path}: is not JSON ({' '.join(str(error).split())})") from error
    if not isinstance(values, dict):
        raise RecipeError(f"{path}: expected a mapping of arguments, not {type(values).__name__}")
    return values
