"""`trustformers-pl validate`."""

from __future__ import annotations

from typing import TYPE_CHECKING

from trustformers_pl.cli.notices import show_notices
from trustformers_pl.cli.opening import opened

if TYPE_CHECKING:
    import argparse


def run(options: argparse.Namespace, overrides: list[str]) -> int:
    """Print one metric a line."""
    show_notices()
    metrics = opened(options.recipe, overrides).validate()
    width = max(map(len, metrics), default=0)
    for name, value in sorted(metrics.items()):
        print(f"{name:<{width}}  {value:.4f}")
    return 0
