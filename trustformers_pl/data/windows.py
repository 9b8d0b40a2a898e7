"""A long text cut into samples for next-token prediction."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch.utils.data import Dataset, default_collate

if TYPE_CHECKING:
    from torch import Tensor

    from trustformers_pl.data.token_files import MappedTokens


class Windows(Dataset[dict[str, "Tensor"]]):
    """Sample i is positions [i * length, (i + 1) * length) of a text, and the tokens one position later as labels.

    Every token but the text's first is thus predicted once; what is left at the end, less than a window, is dropped.

    Args:
        tokens: (N,), any integer dtype, in memory or mapped.
        length: Tokens a sample, less than N.
    """

    # Read by ResumableLoader: no random numbers are drawn here, so there is nothing to seed.
    deterministic = True

    def __init__(self, tokens: Tensor | MappedTokens, length: int) -> None:
        self.tokens = tokens
        self.length = length
        self._offsets = torch.arange(length + 1)

    def __len__(self) -> int:
        return max(0, len(self.tokens) - 1) // self.length

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        """`input_ids` and `labels` of one sample, (length,) int64 each.

        Raises:
            IndexError: If `index` is not in [0, len(self)).
        """
        if not 0 <= index < len(self):
            raise IndexError(f"sample {index} of {len(self)}")
        return {name: rows[0] for name, rows in self.__getitems__([index]).items()}

    def __getitems__(self, indices: list[int]) -> dict[str, Tensor]:
        """A whole batch by one gather instead of one slice a sample: (len(indices), length) int64 each."""
        starts = torch.tensor(indices)[:, None] * self.length
        rows = self.tokens[starts + self._offsets]
        # Copies that share no memory, or masking labels in place would change the inputs.
        return {"input_ids": rows[:, :-1].to(torch.int64, copy=True), "labels": rows[:, 1:].to(torch.int64, copy=True)}


def collate_windows(batch: Any) -> Any:
    """Pass on what `Windows.__getitems__` has already batched; collate single samples as torch does."""
    return batch if isinstance(batch, dict) else default_collate(batch)


collate_windows.deterministic = True  # type: ignore[attr-defined]
