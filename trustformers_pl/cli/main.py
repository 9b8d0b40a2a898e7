"""Reading the command line, and saying in one line what went wrong."""

from __future__ import annotations

import argparse
import os
import sys
from importlib import import_module
from importlib.metadata import version
from typing import TYPE_CHECKING

from trustformers_pl.cli.foreign import foreign_commands, load_command
from trustformers_pl.cli.options import add_options
from trustformers_pl.errors import RecipeError, TrustformersError

if TYPE_CHECKING:
    from collections.abc import Sequence

OURS = "trustformers-pl"
COMMANDS = {
    "fit": "train, from the newest checkpoint of the run folder if there is one",
    "validate": "measure the newest checkpoint on the validation data",
    "test": "measure the newest checkpoint on the test data",
    "predict": "write the newest checkpoint's predictions to a file",
    "generate": "let the newest checkpoint's model continue a text",
    "report": "write a page about a run, or one that compares several, from their folders",
    "export": "write the newest checkpoint's model to a folder, for other programs",
    "explain": "show every value and its origin, the features in order, a training step, and the run as Python",
    "plugins": "list the features that are installed",
    "new": "write the beginning of a recipe, or of a plugin's package",
    "schema": "print the JSON Schema of recipes, for editors",
}
# Of our own chapters, which add them as other packages do.
SUMMARIES = {
    "checkpoint": "list, check, compare and export checkpoints",
    "import": "write a recipe from another trainer's configuration",
}
EXIT_REFUSED, EXIT_INTERRUPTED = 2, 130
EPILOG = """\
A recipe's values can be set on the command line and in the environment:
  --section.key=value      set one value            --zero.stage=3
  --section='{key: value}' switch a feature on      --csv='{}'
  --no-section             take a feature out       --no-samples
  TFPL_SECTION__KEY=value  set a value of a section that is there
"""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; returns its exit code: 0, 2 for what is refused, 130 when interrupted."""
    arguments = list(sys.argv[1:] if arguments is None else arguments)
    debug = "--debug" in arguments or bool(os.environ.get("TFPL_DEBUG"))
    try:
        return _run([argument for argument in arguments if argument != "--debug"])
    except TrustformersError as error:
        if debug:
            raise
        for line in str(error).splitlines():
            print(_red("error: ") + line, file=sys.stderr)
        return EXIT_REFUSED
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return EXIT_INTERRUPTED
    except BrokenPipeError:  # `| head` has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0


def _run(arguments: list[str]) -> int:
    options, rest = command_parser(arguments).parse_known_args(arguments)
    unknown = [argument for argument in rest if not argument.startswith("--")]
    if unknown:
        raise RecipeError(f"{unknown[0]}: not understood; a value is set as --section.key=value, with no space")
    if options.command in COMMANDS:
        run = import_module(f"trustformers_pl.cli.{options.command}").run
    else:
        run = load_command(options.command).run
    code: int = run(options, rest)
    return code


def command_parser(arguments: Sequence[str]) -> argparse.ArgumentParser:
    """The parser of the command and its subcommands.

    Args:
        arguments: Those that will be parsed: of other packages' commands, only the ones named there are imported.
    """
    parser = argparse.ArgumentParser(
        prog="trustformers-pl",
        description="Train transformers with features that work together, from one recipe.",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("--version", action="version", version=f"trustformers-pl {version('trustformers-pl')}")
    parser.add_argument("--debug", action="store_true", help="show the traceback of an error")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    for name, summary in COMMANDS.items():
        sub = commands.add_parser(
            name,
            help=summary,
            description=summary[0].upper() + summary[1:] + ".",
            epilog=EPILOG,
            formatter_class=argparse.RawDescriptionHelpFormatter,
            allow_abbrev=False,
        )
        add_options(name, sub)
    for name, package in foreign_commands(COMMANDS).items():
        summary = SUMMARIES[name] if package == OURS and name in SUMMARIES else f"a command of {package}"
        sub = commands.add_parser(name, help=summary, allow_abbrev=False)
        if name in arguments:
            load_command(name).add_arguments(sub)
    return parser


def _red(text: str) -> str:
    coloured = sys.stderr.isatty() and "NO_COLOR" not in os.environ
    return f"\033[31m{text}\033[0m" if coloured else text
