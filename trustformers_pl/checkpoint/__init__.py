"""Checkpoints: folders of safetensors and JSON, written atomically, verified on load, never pickled."""

from __future__ import annotations

from typing import TYPE_CHECKING

from trustformers_pl.lazy import exports

if TYPE_CHECKING:
    from trustformers_pl.checkpoint.best_checkpoint import best
    from trustformers_pl.checkpoint.callback import Checkpoint
    from trustformers_pl.checkpoint.folder import load, verify
    from trustformers_pl.checkpoint.io import FolderCheckpointIO
    from trustformers_pl.checkpoint.resume import resume_path
    from trustformers_pl.checkpoint.series import newest

__all__ = ["Checkpoint", "FolderCheckpointIO", "best", "load", "newest", "resume_path", "verify"]

__getattr__, __dir__ = exports(
    __name__,
    {
        "Checkpoint": "callback",
        "FolderCheckpointIO": "io",
        "best": "best_checkpoint",
        "load": "folder",
        "newest": "series",
        "resume_path": "resume",
        "verify": "folder",
    },
)
