"""`trustformers-pl new plugin`."""

from __future__ import annotations

import builtins
import re
from importlib.metadata import distributions
from keyword import iskeyword
from pathlib import Path
from typing import TYPE_CHECKING

from trustformers_pl.cli.plugin_template import Names, renamed_files, template_files, words_of_python
from trustformers_pl.errors import PluginError
from trustformers_pl.plan import CORE_SECTIONS
from trustformers_pl.plugins import discover

if TYPE_CHECKING:
    import argparse

NAME = re.compile(r"[a-z][a-z0-9]*(_[a-z0-9]+)*")
LONGEST = 30
NEXT = """\
  pip install --editable '{folder}[dev]'
  pytest {folder}
  trustformers-pl fit {folder}/examples/{section}.yaml"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The name, and where to put it."""
    parser.add_argument("name", help="the section of recipes that switches the feature on, as in my_feature")
    parser.add_argument("--path", default=".", metavar="DIR", help="the folder to put the package's folder in (here)")


def run(options: argparse.Namespace, rest: list[str]) -> int:
    """Write the package, and tell what to do with it."""
    if rest:
        raise PluginError(f"new plugin: {rest[0]} is not understood; the options are NAME and --path DIR")
    folder = write_plugin(options.name, Path(options.path))
    print(f"{folder}: written; it holds a working feature, to be replaced by yours. Next:")
    print(NEXT.format(folder=folder, section=options.name))
    return 0


def write_plugin(name: str, parent: Path) -> Path:
    """Write a plugin's package into a new folder.

    Args:
        name: The section.
        parent: An existing folder.

    Returns:
        The new folder.

    Raises:
        PluginError: The name is none, or taken; the folder is there already, or cannot be written.
    """
    files = template_files()
    names = Names(name)
    _refuse(names, files)
    folder = parent / names.distribution
    if not parent.is_dir():
        raise PluginError(f"new plugin: {parent} is no folder; make it, or choose another --path")
    if folder.exists():
        raise PluginError(f"new plugin: {folder} exists already; remove it, or choose another name or --path")
    try:
        _write(folder, renamed_files(names, files))
    except OSError as error:
        raise PluginError(
            f"new plugin: {folder} cannot be written ({error.strerror}); choose another --path"
        ) from error
    return folder


def _refuse(names: Names, files: dict[str, str]) -> None:
    name = names.section
    if not NAME.fullmatch(name) or len(name) > LONGEST:
        raise PluginError(
            f"new plugin: {name!r} cannot be a section; use up to {LONGEST} lower-case letters, digits and single "
            "underscores, starting with a letter, such as my_feature"
        )
    offers = discover()
    taken = {offer.name.partition(".")[0]: f"of {offer.package}" for offer in offers.values()}
    taken |= dict.fromkeys((*CORE_SECTIONS, "extends"), "of recipes themselves")
    if name in taken:
        raise PluginError(f"new plugin: {name!r} is a section {taken[name]} already; choose another name")
    if any(distributions(name=names.distribution)):
        raise PluginError(f"new plugin: {names.distribution} is installed already; choose another name")
    if iskeyword(names.class_name) or names.class_name in {*dir(builtins), *words_of_python(files)}:
        raise PluginError(
            f"new plugin: {name!r} would make a class {names.class_name}, a name that is in use; choose another name"
        )


def _write(folder: Path, files: dict[str, str]) -> None:
    for name, text in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
