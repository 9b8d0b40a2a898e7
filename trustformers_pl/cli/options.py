"""The options of our own commands."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import argparse
    from collections.abc import Callable

RESUME = (
    "auto: go on where the run folder's newest checkpoint is (default); force: also if the recipe has changed since; "
    "never: start anew, keeping the old folder under another name"
)
CKPT = (
    "where a run without a checkpoint of its own begins: a checkpoint folder of another run, or a stock Lightning "
    ".ckpt file (nothing in it is executed)"
)
OUT = "where to write, a JSON object a line, one for each sample in order (predictions.jsonl in the run folder)"


def add_options(command: str, parser: argparse.ArgumentParser) -> None:
    """Add what `command` takes, the recipe first."""
    if command in OWN_ARGUMENTS:
        parser.epilog = None
        import_module(f"trustformers_pl.cli.{command}").add_arguments(parser)
        return
    meaning = OPTIONAL_RECIPE.get(command)
    if meaning is None:
        parser.add_argument("recipe", help="a YAML file")
    else:
        parser.add_argument("recipe", nargs="?", help=meaning)
    if command in MORE:
        MORE[command](parser)


def _fit(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--resume", choices=["auto", "force", "never"], default="auto", help=RESUME)
    parser.add_argument("--ckpt", metavar="PATH", help=CKPT)


def _predict(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--out", metavar="FILE", help=OUT)


def _export(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--out", metavar="FOLDER", required=True, help="the folder to make")


def _explain(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--build", action="store_true", help="also build the module, on no memory, and show its class")


def _plugins(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--with", dest="features", metavar="A,B", help="say whether these features can live in one run")


def _generate(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--prompt", default="", help="the text to continue")
    parser.add_argument("--max-new-tokens", type=int, default=300, help="how many tokens to generate (300)")
    parser.add_argument("--temperature", type=float, default=0.8, help="0 takes the likeliest token (0.8)")
    parser.add_argument("--top-k", type=int, help="draw from the k likeliest tokens only")
    parser.add_argument("--sample-seed", type=int, default=0, help="another seed gives another text (0)")


# Commands that read no recipe.
OWN_ARGUMENTS = ("new", "report")
OPTIONAL_RECIPE = {
    "plugins": "mark the features that this recipe switches on",
    "schema": "show the sections that this recipe has, instead of all",
}
MORE: dict[str, Callable[[argparse.ArgumentParser], None]] = {
    "fit": _fit,
    "predict": _predict,
    "export": _export,
    "explain": _explain,
    "generate": _generate,
    "plugins": _plugins,
}
