"""The commands' reference, from their argparse parsers."""

from __future__ import annotations

import argparse

from docs_site.markdown import anchor, code, fence, table
from trustformers_pl.cli.foreign import foreign_commands
from trustformers_pl.cli.main import command_parser


def reference() -> str:
    """The options of all commands, and a section a command."""
    whole = command_parser(list(foreign_commands()))
    general = [action for action in whole._actions if action.option_strings and action.dest != "help"]
    (commands,) = (a for a in whole._actions if isinstance(a, argparse._SubParsersAction))
    helps = {choice.dest: choice.help or "" for choice in commands._choices_actions}
    sections = [_section(name, sub, helps[name]) for name, sub in commands.choices.items()]
    return "\n\n".join([table(["Option", "Meaning"], map(_row, general)), *sections])


def _section(name: str, command: argparse.ArgumentParser, summary: str) -> str:
    usage = command.format_usage().removeprefix("usage: ")
    pieces = [
        f"## `{name}` {{#{anchor(name)}}}",
        command.description or f"{summary[0].upper()}{summary[1:]}.",
        fence("text", usage),
        *_arguments(command),
        *(_section(f"{name} {inner}", sub, summary) for inner, sub in _inner(command).items()),
    ]
    return "\n\n".join(pieces)


def _arguments(command: argparse.ArgumentParser) -> list[str]:
    shown = [a for a in command._actions if a.dest != "help" and not isinstance(a, argparse._SubParsersAction)]
    return [table(["Argument", "Meaning"], map(_row, shown))] if shown else []


def _inner(command: argparse.ArgumentParser) -> dict[str, argparse.ArgumentParser]:
    found = [action for action in command._actions if isinstance(action, argparse._SubParsersAction)]
    return dict(found[0].choices) if found else {}


def _row(action: argparse.Action) -> list[str]:
    value = action.metavar if isinstance(action.metavar, str) else action.dest.upper()
    if action.choices:
        value = "|".join(map(str, action.choices))
    if action.option_strings:
        shown = ", ".join(action.option_strings) + ("" if action.nargs == 0 else f"={value}")
    else:
        shown = action.dest if action.nargs != "?" else f"[{action.dest}]"
    return [code(shown), action.help or ""]
