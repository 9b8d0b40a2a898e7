"""`outcome.json` in a run's folder: the run's end in numbers, for programs and for people."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from trustformers_pl.run_folder import write_text

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

FILE = "outcome.json"


def read_outcome(folder: Path) -> dict[str, Any] | None:
    """What a run has left, with the key `metrics`; None where there is nothing to read."""
    try:
        found = json.loads((folder / FILE).read_text(encoding="utf-8"))
        return {**found, "metrics": {str(name): float(value) for name, value in found["metrics"].items()}}
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None


def record_outcome(folder: Path, metrics: Mapping[str, float], **more: Any) -> None:
    """Write it, atomically and durably. Python's JSON: a metric may be NaN or Infinity.

    Raises:
        TrustformersError: The folder cannot be written to.
    """
    write_text(folder / FILE, json.dumps({**more, "metrics": dict(metrics)}, indent=2) + "\n")


def record_fit(folder: Path, global_step: int, metrics: Mapping[str, Any]) -> None:
    """Write the end of a fit.

    A fit that finds all its steps done has only the metrics of its checkpoint: it keeps those that the fit which made
    the last step has measured beside them.

    Args:
        folder: The run folder.
        global_step: Optimizer steps that the run has made.
        metrics: Name -> scalar, or tensor of one element.
    """
    before = read_outcome(folder) or {}
    kept: dict[str, float] = before["metrics"] if before.get("global_step") == global_step else {}
    record_outcome(folder, {**kept, **{name: float(value) for name, value in metrics.items()}}, global_step=global_step)


def forget_outcome(folder: Path) -> None:
    """Remove that of another recipe's run, or of a run that starts anew."""
    (folder / FILE).unlink(missing_ok=True)
