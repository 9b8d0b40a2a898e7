"""The site: built strictly, loads nothing from other hosts, and takes in new pages and features by itself."""

from __future__ import annotations

import re
import shutil
from html.parser import HTMLParser
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

import pytest
from built import ROOT, build

if TYPE_CHECKING:
    from pathlib import Path

LOADED = {("script", "src"), ("link", "href"), ("img", "src"), ("iframe", "src"), ("source", "src")}


class Addresses(HTMLParser):
    """Collects (tag, attribute, address) of a page."""

    def __init__(self, page: Path) -> None:
        super().__init__()
        self.found: list[tuple[str, str, str]] = []
        self.feed(page.read_text(encoding="utf-8"))

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found += [(tag, name, value or "") for name, value in attrs if name in ("src", "href")]


def addresses(site: Path) -> list[tuple[str, str, str]]:
    return [found for page in site.rglob("*.html") for found in Addresses(page).found]


def test_nothing_is_loaded_from_another_host(site: Path) -> None:
    loaded = [address for tag, name, address in addresses(site) if (tag, name) in LOADED]
    assert loaded
    assert not [address for address in loaded if urlsplit(address).netloc]
    sheets = [sheet.read_text(encoding="utf-8") for sheet in site.rglob("*.css")]
    assert not [url for sheet in sheets for url in re.findall(r"(?:@import|url\()\s*[\"']?(?:https?:)?//", sheet)]


def test_links_to_other_hosts_are_well_formed(site: Path) -> None:
    links = {address for tag, name, address in addresses(site) if tag == "a" and urlsplit(address).scheme}
    assert links
    assert not [link for link in links if urlsplit(link).scheme != "https" or "." not in urlsplit(link).netloc]


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """A copy of what the site is built from."""
    copy = tmp_path / "checkout"
    copy.mkdir()
    leave_out = shutil.ignore_patterns("__pycache__")
    for folder in ("docs", "tools", "trustformers_pl", "benchmarks"):
        shutil.copytree(ROOT / folder, copy / folder, ignore=leave_out)
    for name in ("mkdocs.yml", "pyproject.toml", "CHANGELOG.md", "CONTRIBUTING.md", "SECURITY.md"):
        shutil.copy(ROOT / name, copy)
    return copy


def test_a_new_page_and_a_new_feature_need_no_edit_of_the_frame(checkout: Path, tmp_path: Path) -> None:
    (checkout / "docs" / "features" / "shining.md").write_text("# Shining\n\nLet it shine.\n")
    (checkout / "docs" / "compatibility.md").write_text("# Compatibility\n\nWhat runs with what.\n")
    shine = '"""Light."""\nfrom trustformers_pl import Plugin\n\n\nclass Shine(Plugin):\n    """Shines."""\n'
    (checkout / "trustformers_pl" / "light.py").write_text(shine)
    (checkout / "trustformers_pl" / "gloss").mkdir()
    (checkout / "trustformers_pl" / "gloss" / "__init__.py").write_text('"""Surfaces.\n"""\n')
    (checkout / "trustformers_pl" / "gloss" / "plugins.py").write_text(shine)
    pyproject = checkout / "pyproject.toml"
    group = "[project.entry-points.trustformers_pl]\n"
    point = 'shine = "trustformers_pl.gloss.plugins:Shine"\n'
    pyproject.write_text(pyproject.read_text().replace(group, group + point))
    site = tmp_path / "site"
    done = build(checkout, site)
    assert done.returncode == 0, done.stderr
    navigation = (site / "index.html").read_text()
    assert 'href="features/shining/"' in navigation
    assert 'href="compatibility/"' in navigation
    assert 'href="reference/recipe/gloss/"' in navigation
    assert "Let it shine." in (site / "features" / "index.html").read_text()
    assert "Shines." in (site / "reference" / "recipe" / "gloss" / "index.html").read_text()


def rewritten(checkout: Path, text: str) -> None:
    page = checkout / "docs" / "quickstart.md"
    page.write_text(f"# Quickstart\n\n## Install\n\n## In a Trainer of your own\n\n{text}\n")


def test_what_leads_nowhere_breaks_the_build(checkout: Path, tmp_path: Path) -> None:
    rewritten(checkout, "[a](nowhere.md) [b](concepts.md#not-here) [c][trustformers_pl.Nothing]")
    done = build(checkout, tmp_path / "site")
    assert done.returncode != 0
    assert all(name in done.stderr for name in ("nowhere.md", "#not-here", "trustformers_pl.Nothing"))
    assert "Aborted with 3 warnings in strict mode" in done.stdout + done.stderr


def test_a_generated_text_that_does_not_exist_is_refused(checkout: Path, tmp_path: Path) -> None:
    rewritten(checkout, "<!-- generated: nothing -->")
    done = build(checkout, tmp_path / "site")
    assert done.returncode != 0
    assert "quickstart.md: no generated text 'nothing'" in done.stderr
