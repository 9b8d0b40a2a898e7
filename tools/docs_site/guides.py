"""The features' guide pages, as their overview lists them: a page is one file in `docs/features/`."""

from __future__ import annotations

from docs_site.checkout import ROOT
from docs_site.markdown import first_line

FOLDER = ROOT / "docs" / "features"


def overview() -> str:
    """An entry a page: its title with a link, and its first paragraph that is no code."""
    pages = sorted(path for path in FOLDER.glob("*.md") if path.name != "index.md")
    return "\n\n".join(_entry(path.name, path.read_text("utf-8")) for path in pages)


def _entry(name: str, text: str) -> str:
    return f"[**{first_line(text).removeprefix('# ')}**]({name})\n:   {_lead(text)}"


def _lead(text: str) -> str:
    paragraphs = [paragraph for paragraph in text.split("\n\n")[1:] if not paragraph.startswith("```")]
    return " ".join(paragraphs[0].split()) if paragraphs else ""
