"""Subcommands that other packages add: entry points in the group `trustformers_pl.commands`."""

from __future__ import annotations

from importlib.metadata import entry_points
from typing import TYPE_CHECKING, Protocol

from trustformers_pl.errors import PluginError

if TYPE_CHECKING:
    import argparse
    from importlib.metadata import EntryPoint

GROUP = "trustformers_pl.commands"


class Command(Protocol):
    """What such an entry point names: an object (a module will do) with these two functions."""

    def add_arguments(self, parser: argparse.ArgumentParser) -> None:
        """Add the command's own arguments."""

    def run(self, options: argparse.Namespace, rest: list[str]) -> int:
        """Run it; `rest` holds `--section.key=value` overrides. Returns the exit code."""


def foreign_commands() -> dict[str, str]:
    """Command -> the package that adds it, sorted; only metadata is read.

    Raises:
        PluginError: Two packages add one command.
    """
    return {name: point.dist.name if point.dist else "" for name, point in sorted(_points().items())}


def load_command(name: str) -> Command:
    """Import a command.

    Raises:
        PluginError: It cannot be imported.
    """
    point = _points()[name]
    try:
        command: Command = point.load()
    except Exception as error:
        package = point.dist.name if point.dist else "its package"
        cause = f"{type(error).__name__}: {error}".splitlines()[0]
        raise PluginError(f"command {name!r} cannot be imported ({point.value}): {cause}; repair {package}") from error
    return command


def _points() -> dict[str, EntryPoint]:
    found: dict[str, EntryPoint] = {}
    for point in entry_points(group=GROUP):
        other = found.get(point.name)
        if other is not None and other.value != point.value:
            raise PluginError(
                f"command {point.name!r} is added by two packages ({other.value} and {point.value}); "
                "uninstall one of the two"
            )
        found[point.name] = point
    return found
