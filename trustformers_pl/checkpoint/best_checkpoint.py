"""The best checkpoint of a run, found by what the manifests say: there is no link or list that a kill could tear."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from trustformers_pl.checkpoint import manifest as manifests
from trustformers_pl.checkpoint.series import steps
from trustformers_pl.checkpoint.verification import verify
from trustformers_pl.errors import CheckpointError

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path


def best(folder: str | Path) -> Path | None:
    """Find the best whole checkpoint by the metric that the run monitored.

    Args:
        folder: Where a run's checkpoints are; it need not exist.

    Returns:
        The checkpoint with the best value, of equal ones the earliest, verified to its last byte; None where no whole
        checkpoint tells of a metric. If the best one is damaged or not finite, it is the next best that is still there.
    """
    ranked = sorted(_key(step, path, told) for step, path in steps(folder).items() for told in _told(path))
    return next((path for _, _, path in ranked if _whole(path)), None)


def _told(path: Path) -> list[Mapping[str, Any]]:
    """The manifest's metadata, if it names a value of the metric that the run monitors."""
    try:
        manifest = manifests.read(path)
    except CheckpointError:
        return []
    metadata = {} if manifest.not_finite else manifest.metadata
    judged = metadata.get("best")
    return [metadata] if judged and isinstance(metadata.get("monitored", {}).get(judged["monitor"]), float) else []


def _key(step: int, path: Path, told: Mapping[str, Any]) -> tuple[float, int, Path]:
    value = told["monitored"][told["best"]["monitor"]]
    return (value if told["best"]["mode"] == "min" else -value), step, path


def _whole(path: Path) -> bool:
    try:
        verify(path)
    except CheckpointError:
        return False
    return True
