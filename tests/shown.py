"""Every recipe that this project shows: in its pages, its examples and its tests."""

from __future__ import annotations

import re
from pathlib import Path

ROOT = Path(__file__).parent.parent
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", ROOT / "SECURITY.md", *sorted((ROOT / "docs").rglob("*.md"))]
BLOCK = re.compile(r"^```(\w+)\n(.*?)^```", re.MULTILINE | re.DOTALL)


def blocks(language: str) -> list[tuple[str, str]]:
    """(page, text) of each block of code in a language."""
    found = [(page, match) for page in PAGES for match in BLOCK.finditer(page.read_text(encoding="utf-8"))]
    return [(str(page.relative_to(ROOT)), match[2]) for page, match in found if match[1] == language]


def examples() -> list[Path]:
    """The recipes under `examples`."""
    return sorted((ROOT / "examples").rglob("*.yaml"))


def recipes() -> dict[str, str]:
    """Name -> text of each recipe that is shown."""
    found = {str(path.relative_to(ROOT)): path.read_text(encoding="utf-8") for path in examples()}
    return found | {f"{page} {number}": text for number, (page, text) in enumerate(blocks("yaml"), 1)}
