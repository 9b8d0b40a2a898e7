"""What distributions offer is read once, and again when one was installed."""

from __future__ import annotations

import importlib.metadata
from typing import TYPE_CHECKING, Any

from trustformers_pl.installed import entry_points
from trustformers_pl.plugins import GROUP, discover

if TYPE_CHECKING:
    from collections.abc import Callable

    import pytest


def test_it_is_what_the_standard_library_finds() -> None:
    assert set(entry_points(GROUP)) == set(importlib.metadata.entry_points(group=GROUP))


def test_one_that_is_installed_meanwhile_is_found(install: Callable[..., Any], monkeypatch: pytest.MonkeyPatch) -> None:
    before = discover()
    install("new-pack", "", trustformers_pl={"new": "New"})
    assert set(discover()) == {*before, "new"}
    install("newer-pack", "", trustformers_pl={"newer": "Newer"})
    assert set(discover()) == {*before, "new", "newer"}
    monkeypatch.undo()  # its folder is no place of modules any more
    assert discover().keys() == before.keys()


def test_nothing_is_read_where_nothing_was_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    found = set(entry_points(GROUP))
    monkeypatch.setattr(importlib.metadata, "entry_points", None)
    assert set(entry_points(GROUP)) == found
