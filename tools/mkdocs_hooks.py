"""MkDocs hooks: pages that are made from the code when the site is built, so that they cannot be out of date.

A page in `docs/` may hold a line `<!-- generated: NAME -->`; the text of that name takes its place. Pages that are
generated whole (a chapter of features, a module of the API, files of the repository's root) are added to them.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from docs_site import checkout

checkout.make_visible()

from mkdocs.exceptions import PluginError  # noqa: E402
from mkdocs.structure.files import File  # noqa: E402

from docs_site import api, commands, compatibility, contract, features, guides, root_pages, strips, trainer_section  # noqa: E402

if TYPE_CHECKING:
    from mkdocs.config.defaults import MkDocsConfig
    from mkdocs.structure.files import Files
    from mkdocs.structure.pages import Page

MARK = re.compile(r"^<!-- generated: ([\w-]+) -->$", re.MULTILINE)
TEXTS = {
    "features": features.overview,
    "guides": guides.overview,
    "trainer-arguments": trainer_section.arguments,
    "commands": commands.reference,
    "hooks": contract.hooks,
    "phases": contract.phases,
    "slots": contract.slots,
    "traits": contract.traits,
    "api": api.overview,
    "module-strip": strips.module,
    "data-strip": strips.data,
    "gradient-strip": strips.gradient,
    "compatibility": compatibility.matrix,
    "refused-pairs": compatibility.exceptions,
}


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the pages that are generated whole."""
    for uri, text in {**features.pages(), **api.pages(), **root_pages.pages()}.items():
        files.append(File.generated(config, uri, content=text))
    return files


def on_page_markdown(markdown: str, page: Page, **_: object) -> str:
    """Put generated texts where a page asks for them.

    Raises:
        PluginError: A page asks for a text that does not exist.
    """

    def text(match: re.Match[str]) -> str:
        if match[1] not in TEXTS:
            raise PluginError(f"{page.file.src_uri}: no generated text {match[1]!r}; there are {', '.join(TEXTS)}")
        return TEXTS[match[1]]()

    return MARK.sub(text, markdown)
