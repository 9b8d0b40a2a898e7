"""What a checkpoint tells of the run that wrote it, and what of it a resume must find again to end with its bits."""

from __future__ import annotations

import functools
import hashlib
import logging
import platform
from importlib import metadata
from typing import TYPE_CHECKING, Any

import torch

from trustformers_pl.checkpoint import manifest as manifests
from trustformers_pl.errors import CheckpointError
from trustformers_pl.run_folder import NOT_COMPARED

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from lightning import Trainer

logger = logging.getLogger(__name__)


def versions() -> dict[str, str]:
    """The versions of what computes."""
    return dict(_versions())


@functools.cache  # reading them takes milliseconds, while training waits
def _versions() -> dict[str, str]:
    return {
        "lightning": metadata.version("lightning"),
        "python": platform.python_version(),
        "torch": str(torch.__version__),
        "trustformers-pl": metadata.version("trustformers-pl"),
    }


def surroundings(trainer: Trainer) -> dict[str, Any]:
    """What the bits of a run depend on besides its recipe: ranks, threads and versions."""
    return {"world_size": trainer.world_size, "threads": torch.get_num_threads(), "versions": versions()}


def recipe(trainer: Trainer) -> dict[str, Any]:
    """The SHA-256 of the run's recipe, and the packages of its features; nothing in a Trainer without a recipe."""
    told: list[tuple[str, str]] = getattr(trainer.fit_loop.epoch_loop, "statements", [])
    if not told:
        return {}
    features = [value for key, value in told if key.startswith("feature ")]
    values = [entry for entry in told if not entry[0].startswith("feature ") and entry[0] not in NOT_COMPARED]
    packages = sorted({feature.partition(" of ")[2] for feature in features})
    return {"recipe": hashlib.sha256(repr(values).encode()).hexdigest(), "packages": packages}


def warn_of_differences(checkpoint: Path, trainer: Trainer) -> None:
    """Say in one line what differs from when a checkpoint was written, if the run will not end with the same bits.

    Args:
        checkpoint: The one that is resumed from; one that tells nothing of this is passed over.
        trainer: That resumes.
    """
    try:
        before = manifests.read(checkpoint).metadata
    except CheckpointError:
        return  # a stock file
    found = [
        f"{name} {old}, now {new}"
        for name, new in _flat(surroundings(trainer)).items()
        if (old := _at(before, name, new)) != new
    ]
    if found:
        logger.warning(
            "%s was written with %s: the resumed run will not be the same bit for bit", checkpoint, "; ".join(found)
        )


def _flat(told: Mapping[str, Any]) -> dict[str, Any]:
    return {"threads": told["threads"], **told["versions"]}  # of another number of ranks, each part warns by itself


def _at(before: Mapping[str, Any], name: str, default: Any) -> Any:
    found = before.get(name, before.get("versions", {}).get(name))
    return default if found is None else found
