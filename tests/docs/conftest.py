"""The documentation's site, built once a session, strictly, and without torch or Lightning."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

import pytest
from built import ROOT, build

if TYPE_CHECKING:
    from pathlib import Path

sys.path.insert(0, str(ROOT / "tools"))


@pytest.fixture(scope="session")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of the built site."""
    folder = tmp_path_factory.mktemp("site")
    done = build(ROOT, folder)
    assert done.returncode == 0, done.stderr
    return folder
