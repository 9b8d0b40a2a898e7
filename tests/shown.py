"""Every block of code that this project shows, and every recipe: in its pages, its examples and its tests."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

import yaml

ROOT = Path(__file__).parent.parent
AT_THE_ROOT = [
    ROOT / name for name in ("README.md", "CONTRIBUTING.md", "SECURITY.md", "CHANGELOG.md", "benchmarks/README.md")
]
PAGES = [*AT_THE_ROOT, *sorted((ROOT / "docs").rglob("*.md"))]
BLOCK = re.compile(r"^```(\w+)\n(.*?)^```", re.MULTILINE | re.DOTALL)
NAMED = re.compile(r"# ([\w.-]+\.(?:py|yaml|toml))$", re.MULTILINE)


@dataclass(frozen=True)
class Block:
    """A code block of a page."""

    page: str
    language: str
    text: str

    @property
    def name(self) -> str:
        """The file that its first line says it is, or empty."""
        found = NAMED.match(self.text)
        return found[1] if found else ""

    @property
    def is_piece(self) -> bool:
        """Whether it is a piece of a recipe, to be laid over another one."""
        return not {"version", "extends"} & yaml.safe_load(self.text).keys()


def blocks_of(page: Path) -> list[Block]:
    """The code blocks of a page, in order."""
    found = BLOCK.findall(page.read_text(encoding="utf-8"))
    return [Block(str(page.relative_to(ROOT)), language, text) for language, text in found]


# The smallest run; what the fixture `write` writes.
BASE = """\
version: 1
model:
  class_path: tiny.Composable
data:
  class_path: tiny.Data
trainer:
  max_steps: 6
  accelerator: cpu
optimizer: {name: adamw}
"""


def blocks(language: str) -> list[Block]:
    """All blocks of code in a language."""
    return [block for page in PAGES for block in blocks_of(page) if block.language == language]


def first_recipe() -> str:
    """The README's: pages that write none of their own speak of it as `recipe.yaml`."""
    return blocks("yaml")[0].text


def examples() -> list[Path]:
    """The recipes under `examples`."""
    return sorted((ROOT / "examples").rglob("*.yaml"))


def _movable(example: Path) -> str:
    """An example's text, in which what it extends is found from any folder."""
    text = example.read_text(encoding="utf-8")
    return re.sub(r"^extends: (\S+)$", lambda found: f"extends: {example.parent / found[1]}", text, flags=re.MULTILINE)


def recipes() -> dict[str, str]:
    """Name -> text of each recipe that is shown, alone in its file; a piece of one is laid over the README's first.

    Pages that write a `pyproject.toml` are left out: their sections are those of a plugin that is not installed.
    """
    found = {str(path.relative_to(ROOT)): _movable(path) for path in examples()}
    strange = {block.page for block in blocks("toml") if block.name == "pyproject.toml"}
    alone = [block for block in blocks("yaml") if "extends:" not in block.text and block.page not in strange]
    return found | {f"{block.page} {number}": _whole(block) for number, block in enumerate(alone, 1)}


def _whole(block: Block) -> str:
    if not block.is_piece:
        return block.text
    return yaml.safe_dump({**yaml.safe_load(first_recipe()), **yaml.safe_load(block.text)}, sort_keys=False)
