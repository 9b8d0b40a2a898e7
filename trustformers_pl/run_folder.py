"""The run folder's own record: the recipe as it ran, by which a resume knows whether it is the same run."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from trustformers_pl.errors import TrustformersError
from trustformers_pl.recipe.marked_yaml import read_file
from trustformers_pl.recipe.places import flatten, from_plain, plain

if TYPE_CHECKING:
    from trustformers_pl.recipe.places import Section

RECORD = "recipe.yaml"
# Where a run lives does not change what it computes.
NOT_COMPARED = ("trainer.default_root_dir",)


def record(folder: Path, resolved: Section) -> None:
    """Write the resolved recipe into the run folder, atomically.

    Raises:
        TrustformersError: The folder cannot be written to.
    """
    text = "# The recipe as this run read it, every default filled in.\n"
    write_text(folder / RECORD, text + yaml.safe_dump(_portable(resolved), sort_keys=False, allow_unicode=True))


def write_text(path: Path, text: str) -> None:
    """Write a file of the run folder, atomically.

    Raises:
        TrustformersError: The folder cannot be written to.
    """
    temporary = path.with_name(f".{path.name}.tmp-{os.getpid()}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary.write_text(text, encoding="utf-8")
        temporary.replace(path)
    except OSError as error:
        cause = f"{path.parent}: {error.strerror}"
        raise TrustformersError(f"{cause}; choose another --trainer.default_root_dir") from error


def changes(folder: Path, resolved: Section) -> list[str]:
    """What differs between the recipe that the folder's run was started with and this one, a line a key."""
    path = folder / RECORD
    if not path.exists():
        return []
    before = {key: leaf.value for key, leaf in flatten(read_file(path)).items()}
    now = {key: leaf.value for key, leaf in flatten(from_plain(_portable(resolved))).items()}  # type: ignore[arg-type]
    keys = [key for key in dict.fromkeys([*before, *now]) if key not in NOT_COMPARED]
    return [
        f"{key}: {_shown(before, key)} -> {_shown(now, key)}" for key in keys if _shown(before, key) != _shown(now, key)
    ]


def set_aside(folder: Path) -> Path:
    """Rename an earlier run's folder to the next free `<folder>.N`; returns the new name."""
    number = next(n for n in range(1, 10**6) if not folder.with_name(f"{folder.name}.{n}").exists())
    return folder.rename(folder.with_name(f"{folder.name}.{number}"))


def _shown(values: dict[str, Any], key: str) -> str:
    return repr(values[key]) if key in values else "not there"


def _portable(section: Section) -> Any:
    def convert(value: Any) -> Any:
        if isinstance(value, dict):
            return {str(key): convert(item) for key, item in value.items()}
        if isinstance(value, list | tuple):
            return [convert(item) for item in value]
        return str(value) if isinstance(value, Path) else value

    return convert(plain(section))
