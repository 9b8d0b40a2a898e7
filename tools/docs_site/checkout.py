"""This checkout as if it were installed: its plugins are found by the metadata in its own `pyproject.toml` files.

The site then always describes the checkout that it is built from, and building it needs neither torch nor Lightning.
"""

from __future__ import annotations

import sys
import tomllib
from importlib.machinery import PathFinder
from importlib.metadata import Distribution, DistributionFinder
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import os
    from collections.abc import Iterator, Sequence
    from importlib.machinery import ModuleSpec

ROOT = Path(__file__).parent.parent.parent


class Checkout(Distribution):
    """A distribution whose metadata are those of a folder's `pyproject.toml`.

    Args:
        folder: Holds `pyproject.toml`, and the package beside it or in `src/`.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.project: dict[str, Any] = tomllib.loads((folder / "pyproject.toml").read_text("utf-8"))["project"]

    def read_text(self, filename: str) -> str | None:
        """The two files of a `.dist-info` folder that finding plugins takes."""
        if filename == "METADATA":
            version = self.project.get("version", "0")
            return f"Metadata-Version: 2.1\nName: {self.project['name']}\nVersion: {version}\n"
        return self._entry_points() if filename == "entry_points.txt" else None

    def _entry_points(self) -> str:
        lines = []
        for group, points in self.project.get("entry-points", {}).items():
            lines += [f"[{group}]", *(f"{name} = {value}" for name, value in points.items())]
        return "\n".join(lines)

    def locate_file(self, path: str | os.PathLike[str]) -> Path:
        """The file's place in the folder."""
        return self.folder / path


class CheckoutFinder(DistributionFinder):
    """Finds the distributions of this repository, and their modules."""

    def find_spec(self, fullname: str, path: Sequence[str] | None, target: object = None) -> ModuleSpec | None:
        """A module that lies in a distribution's folder; not through `sys.path`, which MkDocs puts back."""
        del target
        spec = None if path else PathFinder.find_spec(fullname, [str(_modules(folder)) for folder in folders()])
        return spec if spec and spec.loader else None  # any folder without a loader is a namespace package

    def find_distributions(self, context: DistributionFinder.Context | None = None) -> Iterator[Checkout]:
        """Ours, and those in `plugins/`; one of them where the context names it."""
        name = None if context is None else context.name
        for folder in folders():
            found = Checkout(folder)
            if name is None or found.project["name"] == name:
                yield found


def folders() -> list[Path]:
    """The folders of this repository that hold a distribution."""
    return [ROOT, *sorted(path.parent for path in ROOT.glob("plugins/*/pyproject.toml"))]


def make_visible() -> None:
    """From now on this process finds the checkout's distributions and modules before those that are installed.

    A finder of its own for each call: what distributions offer is read again, where the checkout has changed since.
    """
    sys.meta_path[:] = [CheckoutFinder(), *(one for one in sys.meta_path if not isinstance(one, CheckoutFinder))]


def _modules(folder: Path) -> Path:
    return folder / "src" if (folder / "src").is_dir() else folder
