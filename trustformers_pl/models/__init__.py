"""Models small enough to read, and to train on one CPU."""

from __future__ import annotations

from typing import TYPE_CHECKING

from trustformers_pl.lazy import exports

if TYPE_CHECKING:
    from trustformers_pl.models.encoder_classifier import EncoderClassifier
    from trustformers_pl.models.generation import KVCache
    from trustformers_pl.models.gpt import GPT

__all__ = ["GPT", "EncoderClassifier", "KVCache"]

__getattr__, __dir__ = exports(
    __name__, {"EncoderClassifier": "encoder_classifier", "GPT": "gpt", "KVCache": "generation"}
)
