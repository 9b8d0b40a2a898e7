"""Texts as sequences of bytes, and batches of them, padded."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch.utils.data import Dataset

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import Tensor

PADDING = 0  # any token would do: the attention mask hides it


class ByteSequences(Dataset[dict[str, "Tensor"]]):
    """Sample i is the first `max_length` bytes of text i, and its label if there are labels.

    Args:
        texts: None of them empty.
        labels: As many numbers, or None.
        max_length: Bytes of a text that are kept.
    """

    # Read by ResumableLoader: no random numbers are drawn here, so there is nothing to seed.
    deterministic = True

    def __init__(self, texts: Sequence[str], labels: Sequence[int] | None, max_length: int) -> None:
        self.texts, self.labels, self.max_length = texts, labels, max_length

    def __len__(self) -> int:
        return len(self.texts)

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        """`input_ids` (T,) int64, and `labels`, an int64 scalar."""
        content = bytearray(self.texts[index].encode()[: self.max_length])
        sample = {"input_ids": torch.frombuffer(content, dtype=torch.uint8).long()}
        return sample if self.labels is None else {**sample, "labels": torch.tensor(self.labels[index])}


class PaddingCollation:
    """Makes a batch: `input_ids` and `attention_mask` (B, T), and `labels` (B,) if there are some.

    Args:
        length: T; None takes the longest sequence of the batch.
    """

    deterministic = True

    def __init__(self, length: int | None) -> None:
        self.length = length

    def __call__(self, samples: list[dict[str, Any]]) -> dict[str, Tensor]:
        """Pad on the right."""
        sequences = [sample["input_ids"] for sample in samples]
        lengths = torch.tensor([len(sequence) for sequence in sequences])
        width = self.length or int(lengths.max())
        input_ids = torch.full((len(samples), width), PADDING)
        for row, sequence in zip(input_ids, sequences, strict=True):
            row[: len(sequence)] = sequence
        batch = {"input_ids": input_ids, "attention_mask": torch.arange(width) < lengths[:, None]}
        labelled = {"labels": torch.stack([sample["labels"] for sample in samples])} if "labels" in samples[0] else {}
        return batch | labelled
