"""Files of the repository's root that are pages of the site too, with their links mended."""

from __future__ import annotations

import re
from posixpath import normpath, relpath

from docs_site.checkout import ROOT

PAGES = {
    "CHANGELOG.md": "changelog.md",
    "CONTRIBUTING.md": "contributing.md",
    "SECURITY.md": "security.md",
    "benchmarks/README.md": "benchmarks.md",
}
LINK = re.compile(r"(?<=\]\()(?!\w+:|#)([^)#]+)(#[^)]*)?(?=\))")


def pages() -> dict[str, str]:
    """Path in the site -> text."""
    return {page: mended((ROOT / file).read_text("utf-8"), file) for file, page in PAGES.items()}


def mended(text: str, file: str) -> str:
    """The text with links that lead to the same files from a page directly in the site's root.

    Args:
        text: Markdown.
        file: Its path in the repository.
    """

    def target(match: re.Match[str]) -> str:
        path = normpath(f"{file}/../{match[1]}")
        return PAGES.get(path, relpath(path, "docs")) + (match[2] or "")

    return LINK.sub(target, text)
