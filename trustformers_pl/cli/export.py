"""`trustformers-pl export`."""

from __future__ import annotations

from typing import TYPE_CHECKING

from trustformers_pl.cli.notices import show_notices
from trustformers_pl.cli.opening import opened

if TYPE_CHECKING:
    import argparse


def run(options: argparse.Namespace, overrides: list[str]) -> int:
    """Write the model and say where."""
    show_notices()
    print(f"exported: {opened(options.recipe, overrides).export(options.out)}")
    return 0
