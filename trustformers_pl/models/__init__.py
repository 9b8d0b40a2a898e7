"""Models small enough to read, and to train on one CPU."""

from __future__ import annotations

from typing import TYPE_CHECKING

from trustformers_pl.lazy import exports

if TYPE_CHECKING:
    from trustformers_pl.models.generation import KVCache
    from trustformers_pl.models.gpt import GPT

__all__ = ["GPT", "KVCache"]

__getattr__, __dir__ = exports(__name__, {"GPT": "gpt", "KVCache": "generation"})
