"""What there is to say of a checkpoint without loading it. Needs neither torch nor Lightning."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from trustformers_pl.checkpoint import manifest as manifests
from trustformers_pl.checkpoint.manifest import Manifest
from trustformers_pl.checkpoint.verification import check_size, damaged
from trustformers_pl.errors import CheckpointError

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path


@dataclass(frozen=True)
class Listed:
    """One checkpoint of a list.

    Attributes:
        path: The folder.
        written: When its manifest was written, or its folder where there is none; in UTC.
        size: Bytes of all its files.
        complaint: What is wrong with it; empty where nothing was found.
        metadata: What its manifest says of the run: `epoch`, `global_step`, `versions` and so on.
    """

    path: Path
    written: datetime
    size: int
    complaint: str = ""
    metadata: Mapping[str, Any] = field(default_factory=dict)


def listed(path: Path, *, every_byte: bool = False) -> Listed:
    """Look at a checkpoint.

    Args:
        path: The folder.
        every_byte: Check the sha256 of its files, not only their presence and size.
    """
    files = [file for file in path.iterdir() if file.is_file()]
    manifest = path / manifests.NAME
    seconds = (manifest if manifest.exists() else path).stat().st_mtime
    told, complaint = _read(path)
    if every_byte:
        complaint = "; ".join(f"{name}: {cause.partition(': ')[0]}" for name, cause in damaged(path).items())
    size = sum(file.stat().st_size for file in files)
    return Listed(path, datetime.fromtimestamp(seconds, UTC), size, complaint, told)


def _read(path: Path) -> tuple[Mapping[str, Any], str]:
    try:
        manifest = manifests.read(path)
    except CheckpointError as error:
        return {}, _short(error, path)
    try:
        for name, entry in manifest.files.items():
            check_size(path / name, entry)
    except CheckpointError as error:
        return manifest.metadata, _short(error, path)
    return manifest.metadata, ""


def _short(error: CheckpointError, path: Path) -> str:
    return str(error).removeprefix(f"{path}/").rpartition("; ")[0]


def not_finite(metadata: Mapping[str, Any]) -> str:
    """What a checkpoint holds that no training goes on from, as `; layer.weight is not finite`; empty as a rule."""
    bad = Manifest({}, metadata).not_finite
    return f"; {bad} is not finite" if bad else ""


def monitored(metadata: Mapping[str, Any]) -> str:
    """The metric that a checkpoint is kept for, as `val_loss=1.25`; empty where the manifest tells of none."""
    told = metadata.get("monitored")
    if not isinstance(told, dict):
        return ""
    return ", ".join(
        f"{name}={value:.6g}" if isinstance(value, float) else f"{name}={value}" for name, value in told.items()
    )
