"""The package that `new plugin` writes: our own example plugin's files, under other names."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from trustformers_pl.errors import PluginError

if TYPE_CHECKING:
    from collections.abc import Iterator

IN_WHEEL = Path(__file__).parent / "templates" / "plugin"
IN_CHECKOUT = Path(__file__).parents[2] / "plugins" / "trustformers-pl-example"
# What tools leave in a checkout of the example, or pip beside the files of a wheel.
LEFT_BY_TOOLS = re.compile(r"__pycache__|\.\w+_cache|\.venv|build|dist|runs|.*\.egg-info")


@dataclass(frozen=True)
class Names:
    """What a plugin package calls its things.

    Attributes:
        section: Of the recipe; the entry point's name.
    """

    section: str

    @property
    def distribution(self) -> str:
        """What pip installs, and the folder."""
        return f"trustformers-pl-{self.section.replace('_', '-')}"

    @property
    def package(self) -> str:
        """What Python imports."""
        return f"trustformers_pl_{self.section}"

    @property
    def class_name(self) -> str:
        """The Lightning part; the plugin is this with `Plugin` behind it."""
        return "".join(word.capitalize() for word in self.section.split("_"))

    def in_place_of_the_examples(self) -> dict[str, str]:
        """The example's names, each with the one to write instead."""
        return {
            "trustformers-pl-example": self.distribution,
            "trustformers_pl_example": self.package,
            "gradient_noise": self.section,
            "GradientNoise": self.class_name,
        }


def template_files(folder: Path | None = None) -> dict[str, str]:
    """The example's files: path relative to its folder -> text, sorted.

    Args:
        folder: The example's; by default the one in the installed wheel, or in the checkout that is installed.

    Raises:
        PluginError: It is not there.
    """
    folder = folder or next((found for found in (IN_WHEEL, IN_CHECKOUT) if found.is_dir()), None)
    if folder is None:
        raise PluginError(f"{IN_WHEEL}: the example plugin's files are missing; install trustformers-pl again")
    return {str(path.relative_to(folder)): path.read_text(encoding="utf-8") for path in sorted(_files(folder))}


def _files(folder: Path) -> Iterator[Path]:
    for path in folder.iterdir():
        if LEFT_BY_TOOLS.fullmatch(path.name):
            continue
        if path.is_dir():
            yield from _files(path)
        else:
            yield path


def renamed_files(names: Names, files: dict[str, str]) -> dict[str, str]:
    """The files with the example's names replaced, in their paths too."""
    replacements = names.in_place_of_the_examples()
    examples = re.compile("|".join(map(re.escape, replacements)))

    def renamed(text: str) -> str:
        return examples.sub(lambda found: replacements[found[0]], text)

    return {renamed(path): renamed(text) for path, text in files.items()}


def words_of_python(files: dict[str, str]) -> set[str]:
    """Every word of the template's Python files: a class of such a name could hide something there."""
    return {word for path, text in files.items() if path.endswith(".py") for word in re.findall(r"\w+", text)}
