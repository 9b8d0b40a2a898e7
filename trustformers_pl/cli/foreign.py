"""Subcommands that other packages add: entry points in the group `trustformers_pl.commands`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

from trustformers_pl.errors import PluginError
from trustformers_pl.installed import entry_points

if TYPE_CHECKING:
    import argparse
    from collections.abc import Collection
    from importlib.metadata import EntryPoint

GROUP = "trustformers_pl.commands"


class Command(Protocol):
    """What such an entry point names: an object (a module will do) with these two functions."""

    def add_arguments(self, parser: argparse.ArgumentParser) -> None:
        """Add the command's own arguments."""

    def run(self, options: argparse.Namespace, rest: list[str]) -> int:
        """Run it; `rest` holds `--section.key=value` overrides. Returns the exit code."""


def foreign_commands(own: Collection[str] = ()) -> dict[str, str]:
    """Command -> the package that adds it, sorted; only metadata is read.

    Args:
        own: Commands of ours.

    Raises:
        PluginError: Two packages add one command, or one adds a command of ours.
    """
    found = {name: _package(point) for name, point in sorted(_points().items())}
    for name in own:
        if name in found:
            raise PluginError(f"command {name!r} is our own, and {found[name]} adds one too; uninstall {found[name]}")
    return found


def load_command(name: str) -> Command:
    """Import a command.

    Raises:
        PluginError: It cannot be imported.
    """
    point = _points()[name]
    try:
        command: Command = point.load()
    except Exception as error:
        cause = f"{type(error).__name__}: {error}".splitlines()[0]
        raise PluginError(
            f"command {name!r} cannot be imported ({point.value}): {cause}; repair {_package(point)}"
        ) from error
    return command


def _points() -> dict[str, EntryPoint]:
    found: dict[str, EntryPoint] = {}
    for point in entry_points(group=GROUP):
        other = found.setdefault(point.name, point)
        if _package(other) != _package(point):
            packages = " and ".join(sorted((_package(other), _package(point))))
            raise PluginError(f"command {point.name!r} is added by {packages}; uninstall one of the two")
    return found


def _package(point: EntryPoint) -> str:
    return point.dist.name if point.dist else "an unknown package"
