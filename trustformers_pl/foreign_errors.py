"""Refusals of Lightning and torch, said as ours: one line with the place."""

from __future__ import annotations

import traceback
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

from trustformers_pl.errors import CheckpointError, RecipeError

if TYPE_CHECKING:
    from collections.abc import Iterator

STATE_DICT = "Error(s) in loading state_dict"


@contextmanager
def as_our_own(place: object, ckpt_path: object = None) -> Iterator[None]:
    """Inside, what Lightning refuses and weights that do not fit are one line; errors of other code pass.

    Args:
        place: Where the Trainer's arguments stand.
        ckpt_path: The checkpoint that is being loaded.

    Raises:
        RecipeError: Lightning itself refused its arguments.
        CheckpointError: The checkpoint is of another model.
    """
    from lightning.fabric.utilities.exceptions import MisconfigurationException  # what runs no training is light

    try:
        yield
    except (MisconfigurationException, ValueError, TypeError) as error:
        if not _raised_by_lightning(error):
            raise
        raise RecipeError(f"{place}: trainer: Lightning refuses this: {' '.join(str(error).split())}") from error
    except RuntimeError as error:
        if not str(error).startswith(STATE_DICT):
            raise
        raise CheckpointError(f"{ckpt_path}: of another model: {_first_mismatch(error)}") from error


def _raised_by_lightning(error: Exception) -> bool:
    frames = traceback.extract_tb(error.__traceback__)
    spec = find_spec("lightning")
    folder = str(Path(spec.origin).parent) if spec and spec.origin else ""
    return bool(frames and folder) and frames[-1].filename.startswith(folder)


def _first_mismatch(error: RuntimeError) -> str:
    _, *mismatches = (" ".join(line.split()).rstrip(".") for line in str(error).splitlines() if line.strip())
    more = f" (and {len(mismatches) - 1} more)" if len(mismatches) > 1 else ""
    return f"{mismatches[0]}{more}; give this checkpoint's model, or start anew with --resume=never"
