"""Writing a Hugging Face model to a folder that is there whole or not at all."""

from __future__ import annotations

import logging
import os
import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any

from trustformers_pl.durable import sync_folder
from trustformers_pl.errors import RecipeError, RefusedError
from trustformers_pl.models.hf_folder import quiet

if TYPE_CHECKING:
    from trustformers_pl.models.hf_folder import ModelFolder

logger = logging.getLogger(__name__)


def save_model(model: Any, source: ModelFolder, folder: str | Path) -> None:
    """Write configuration, weights (safetensors) and tokenizer.

    Args:
        model: A `transformers` model.
        source: Whose tokenizer is written too.
        folder: Made here.

    Raises:
        RefusedError: It is there already and not empty, or cannot be written.
    """
    target = Path(folder)
    if target.exists() and (not target.is_dir() or any(target.iterdir())):
        raise RefusedError(f"{target}: is there already; give the name of a new folder")
    unfinished = target.with_name(f".{target.name}.unfinished-{os.getpid()}")
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        tokenizer = _tokenizer(source)
        with quiet():
            model.save_pretrained(unfinished)
            if tokenizer is not None:
                tokenizer.save_pretrained(unfinished)
        for file in unfinished.iterdir():
            _sync(file)
        unfinished.replace(target)
        sync_folder(target.parent)
    except OSError as error:
        raise RefusedError(f"{target}: cannot be written ({error.strerror}); give another folder") from error
    finally:
        shutil.rmtree(unfinished, ignore_errors=True)


def _tokenizer(source: ModelFolder) -> Any | None:
    try:
        return source.tokenizer()
    except RecipeError as error:  # a model without a tokenizer is a model all the same
        logger.warning("no tokenizer is written: %s", error)
        return None


def _sync(file: Path) -> None:
    with file.open("rb") as opened:
        os.fsync(opened.fileno())
