"""A byte n-gram model: what a language model has to beat."""

from __future__ import annotations

import torch

BYTES = 256


def ngram_bits_per_byte(train_text: torch.Tensor, text: torch.Tensor, order: int = 3) -> float:
    """An n-gram model with `order` bytes of context, interpolated as by Witten and Bell (1991).

    p_k(c | h) = (count(h c) + distinct(h) p_{k-1}(c | h without its first byte)) / (count(h) + distinct(h)), where
    distinct(h) is how many different bytes follow h in training; p_{-1} = 1 / 256. Nothing to tune.
    """
    probability = torch.full((len(text) - order,), 1.0 / BYTES, dtype=torch.float64)
    for length in range(order + 1):
        grams, counts = codes(train_text, length + 1).unique(return_counts=True)
        contexts, inverse, distinct = (grams // BYTES).unique(return_inverse=True, return_counts=True)
        totals = torch.zeros(len(contexts), dtype=torch.int64).index_add_(0, inverse, counts)
        seen = codes(text, length + 1)[order - length :]
        n_gram, n_context = look_up(grams, counts, seen), look_up(contexts, totals, seen // BYTES)
        fallback = look_up(contexts, distinct, seen // BYTES)
        mixed = (n_gram + fallback * probability) / (n_context + fallback)
        probability = torch.where(n_context > 0, mixed, probability)
    return float(-probability.log2().mean())


def codes(text: torch.Tensor, length: int) -> torch.Tensor:
    """The (N - length + 1,) runs of `length` bytes as numbers in base 256, int64."""
    runs = text.long().unfold(0, length, 1)
    return (runs * BYTES ** torch.arange(length - 1, -1, -1)).sum(dim=1)


def look_up(keys: torch.Tensor, values: torch.Tensor, wanted: torch.Tensor) -> torch.Tensor:
    """`values` of `wanted` by sorted `keys`, 0 where absent."""
    at = torch.searchsorted(keys, wanted).clamp(max=len(keys) - 1)
    return torch.where(keys[at] == wanted, values[at], 0)
