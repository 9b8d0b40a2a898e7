"""The suite's own files."""

from __future__ import annotations

from collections import Counter
from pathlib import Path


def test_no_two_test_modules_have_one_name() -> None:
    """Pytest imports a module by its name: the second of two that share one is an error, in some orders only."""
    here = Path(__file__).parent
    folders = [here, here.parent / "plugins"]
    modules = Counter(path.name for folder in folders for path in folder.rglob("test_*.py"))
    assert len(modules) > 50
    assert not [name for name, number in modules.items() if number > 1]
