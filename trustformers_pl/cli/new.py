"""`trustformers-pl new KIND`: write the beginning of something."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import argparse

KINDS = {
    "plugin": "a package with a feature of your own, its tests and a recipe",
    "recipe": "a recipe that trains as it stands, with every installed section explained",
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """A parser for each kind."""
    kinds = parser.add_subparsers(dest="kind", required=True, metavar="KIND")
    for kind, summary in KINDS.items():
        sub = kinds.add_parser(kind, help=summary, description=f"Write {summary}.", allow_abbrev=False)
        import_module(f"trustformers_pl.cli.new_{kind}").add_arguments(sub)


def run(options: argparse.Namespace, rest: list[str]) -> int:
    """Write one."""
    code: int = import_module(f"trustformers_pl.cli.new_{options.kind}").run(options, rest)
    return code
