"""`trustformers-pl predict`."""

from __future__ import annotations

from typing import TYPE_CHECKING

from trustformers_pl.cli.notices import show_notices
from trustformers_pl.cli.opening import opened

if TYPE_CHECKING:
    import argparse


def run(options: argparse.Namespace, overrides: list[str]) -> int:
    """Write the predictions, and say where they are."""
    show_notices()
    trained = opened(options.recipe, overrides)
    path, count = trained.predict(options.out)
    if trained.leads:
        print(f"{count} predictions: {path}")
    return 0
