"""Models small enough to read, and to train on one CPU; and Hugging Face models from a local folder."""

from __future__ import annotations

from typing import TYPE_CHECKING

from trustformers_pl.lazy import exports

if TYPE_CHECKING:
    from trustformers_pl.models.encoder_classifier import EncoderClassifier
    from trustformers_pl.models.generation import KVCache
    from trustformers_pl.models.gpt import GPT
    from trustformers_pl.models.hf_causal import HFCausalLM
    from trustformers_pl.models.hf_classifier import HFSequenceClassifier

__all__ = ["GPT", "EncoderClassifier", "HFCausalLM", "HFSequenceClassifier", "KVCache"]

__getattr__, __dir__ = exports(
    __name__,
    {
        "EncoderClassifier": "encoder_classifier",
        "GPT": "gpt",
        "HFCausalLM": "hf_causal",
        "HFSequenceClassifier": "hf_classifier",
        "KVCache": "generation",
    },
)
