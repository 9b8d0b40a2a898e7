"""The run folder's own record: the recipe as it ran, by which a resume knows whether it is the same run."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from trustformers_pl.durable import write_durably
from trustformers_pl.errors import TrustformersError
from trustformers_pl.recipe.marked_yaml import read_file
from trustformers_pl.recipe.places import flatten, from_plain, plain
from trustformers_pl.recipe.writing import as_yaml

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
    write_recipe(folder / RECORD, resolved, "The recipe as this run read it, every default filled in.")


def write_recipe(path: Path, tree: Section, comment: str) -> None:
    """Write a recipe file under a line of comment, atomically.

    Raises:
        TrustformersError: The folder cannot be written to.
    """
    write_text(path, f"# {comment}\n{as_yaml(portable(tree))}")


def write_text(path: Path, text: str) -> None:
    """Write a file of the run folder, atomically and durably.

    Raises:
        TrustformersError: The folder cannot be written to.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_durably(path, text)
    except OSError as error:
        cause = f"{path.parent}: {error.strerror}"
        raise TrustformersError(f"{cause}; choose another --trainer.default_root_dir") from error


def changes(folder: Path, tree: Section, name: str = RECORD) -> list[str]:
    """What differs between the recipe that stands in a run's folder and this one, a line a key.

    Args:
        folder: The run's.
        tree: The recipe at hand.
        name: The file to compare with; where there is none, nothing differs.
    """
    path = folder / name
    if not path.exists():
        return []
    before = {key: leaf.value for key, leaf in flatten(read_file(path)).items()}
    now = {key: leaf.value for key, leaf in flatten(from_plain(portable(tree))).items()}  # type: ignore[arg-type]
    keys = [key for key in dict.fromkeys([*before, *now]) if key not in NOT_COMPARED]
    return [
        f"{key}: {_shown(before, key)} -> {_shown(now, key)}" for key in keys if _shown(before, key) != _shown(now, key)
    ]


def another_recipe(folder: Path, differences: list[str]) -> str:
    """Say that a run folder's checkpoints are of another recipe, what differs, and what one can do.

    Args:
        folder: The run's.
        differences: From `changes`. One stands in the sentence; several follow it, aligned, a line each.
    """
    mend = "--resume=force goes on with this one, --resume=never starts anew and keeps the old folder"
    told = differences[0] if len(differences) == 1 else f"{len(differences)} values, then -> now"
    head = f"{folder}: its checkpoints are of another recipe ({told}); {mend}"
    if len(differences) == 1:
        return head
    pairs = [line.partition(": ")[::2] for line in differences]
    width = max(len(key) for key, _ in pairs)
    return "\n".join([head, *(f"  {key:<{width}}  {values}" for key, values in pairs)])


def set_aside(folder: Path) -> Path:
    """Rename an earlier run's folder to the next free `<folder>.N`; returns the new name."""
    number = next(n for n in range(1, 10**6) if not folder.with_name(f"{folder.name}.{n}").exists())
    return folder.rename(folder.with_name(f"{folder.name}.{number}"))


def _shown(values: dict[str, Any], key: str) -> str:
    return repr(values[key]) if key in values else "not there"


def portable(section: Section) -> Any:
    """The values of a tree as a file can hold them: paths as strings, tuples as lists."""

    def convert(value: Any) -> Any:
        if isinstance(value, dict):
            return {str(key): convert(item) for key, item in value.items()}
        if isinstance(value, list | tuple):
            return [convert(item) for item in value]
        return str(value) if isinstance(value, Path) else value

    return convert(plain(section))
