"""Texts as sequences of tokens, and batches of them, padded."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch.utils.data import Dataset

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import Tensor

    from trustformers_pl.data.tokenizer import Tokenizer


class TokenSequences(Dataset[dict[str, "Tensor"]]):
    """Sample i is the first `max_length` tokens of text i, and its label if there are labels.

    Args:
        texts: None of them empty.
        labels: As many numbers, or None.
        max_length: Tokens of a text that are kept.
        tokenizer: What makes them.
    """

    # Read by ResumableLoader: no random numbers are drawn here, so there is nothing to seed.
    deterministic = True

    def __init__(
        self, texts: Sequence[str], labels: Sequence[int] | None, max_length: int, tokenizer: Tokenizer
    ) -> None:
        self.texts, self.labels, self.max_length, self.tokenizer = texts, labels, max_length, tokenizer

    def __len__(self) -> int:
        return len(self.texts)

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        """`input_ids` (T,) int64, and `labels`, an int64 scalar."""
        sample = {"input_ids": torch.tensor(self.tokenizer.encode_whole(self.texts[index], self.max_length))}
        return sample if self.labels is None else {**sample, "labels": torch.tensor(self.labels[index])}


class PaddingCollation:
    """Makes a batch: `input_ids` and `attention_mask` (B, T), and `labels` (B,) if there are some.

    Args:
        length: T; None takes the longest sequence of the batch.
        padding: The token to fill up with. Any would do: the attention mask hides it.
    """

    deterministic = True

    def __init__(self, length: int | None, padding: int = 0) -> None:
        self.length, self.padding = length, padding

    def __call__(self, samples: list[dict[str, Any]]) -> dict[str, Tensor]:
        """Pad on the right."""
        sequences = [sample["input_ids"] for sample in samples]
        lengths = torch.tensor([len(sequence) for sequence in sequences])
        width = self.length or int(lengths.max())
        input_ids = torch.full((len(samples), width), self.padding)
        for row, sequence in zip(input_ids, sequences, strict=True):
            row[: len(sequence)] = sequence
        batch = {"input_ids": input_ids, "attention_mask": torch.arange(width) < lengths[:, None]}
        labelled = {"labels": torch.stack([sample["labels"] for sample in samples])} if "labels" in samples[0] else {}
        return batch | labelled
