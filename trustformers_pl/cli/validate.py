"""`trustformers-pl validate`."""

from __future__ import annotations

from typing import TYPE_CHECKING

from trustformers_pl.cli.measured import print_metrics
from trustformers_pl.cli.notices import show_notices
from trustformers_pl.cli.opening import opened

if TYPE_CHECKING:
    import argparse


def run(options: argparse.Namespace, overrides: list[str]) -> int:
    """Print one metric a line."""
    show_notices()
    trained = opened(options.recipe, overrides)
    print_metrics(trained, trained.validate())
    return 0
