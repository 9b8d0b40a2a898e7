"""Checkpoints: folders of safetensors and JSON, written atomically, verified on load, never pickled."""

from __future__ import annotations

from typing import TYPE_CHECKING

from trustformers_pl.lazy import exports

if TYPE_CHECKING:
    from trustformers_pl.checkpoint.best_checkpoint import best
    from trustformers_pl.checkpoint.callback import Checkpoint
    from trustformers_pl.checkpoint.consolidation import consolidate
    from trustformers_pl.checkpoint.fine_tune import Pretrained
    from trustformers_pl.checkpoint.io import FolderCheckpointIO
    from trustformers_pl.checkpoint.loading import export, load, load_module
    from trustformers_pl.checkpoint.resume import resume_path
    from trustformers_pl.checkpoint.series import newest
    from trustformers_pl.checkpoint.verification import verify
    from trustformers_pl.checkpoint.weights import Match, load_weights

__all__ = [
    "Checkpoint",
    "FolderCheckpointIO",
    "Match",
    "Pretrained",
    "best",
    "consolidate",
    "export",
    "load",
    "load_module",
    "load_weights",
    "newest",
    "resume_path",
    "verify",
]

__getattr__, __dir__ = exports(
    __name__,
    {
        "Checkpoint": "callback",
        "FolderCheckpointIO": "io",
        "best": "best_checkpoint",
        "Match": "weights",
        "Pretrained": "fine_tune",
        "consolidate": "consolidation",
        "export": "loading",
        "load": "loading",
        "load_module": "loading",
        "load_weights": "weights",
        "newest": "series",
        "resume_path": "resume",
        "verify": "verification",
    },
)
