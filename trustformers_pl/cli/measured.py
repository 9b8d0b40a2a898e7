"""Metrics for people: one a line."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping

    from trustformers_pl.run import Run


def print_metrics(run: Run, metrics: Mapping[str, float]) -> None:
    """Print names and values, on the rank that talks to people."""
    width = max(map(len, metrics), default=0)
    for name, value in sorted(metrics.items()) if run.leads else ():
        print(f"{name:<{width}}  {value:.4f}")
