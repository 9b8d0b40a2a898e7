"""Whole documents packed into windows."""

from __future__ import annotations

from bisect import bisect_left, insort
from typing import TYPE_CHECKING

import torch
from torch.utils.data import Dataset

if TYPE_CHECKING:
    from torch import Tensor

    from trustformers_pl.data.token_files import MappedTokens

IGNORED = -100


def best_fit(lengths: list[int], capacity: int) -> list[list[int]]:
    """Pack items into as few bins as best-fit-decreasing finds: the longest first, each where it leaves least room.

    Ding et al. 2024, "Fewer Truncations Improve Language Modeling", algorithm 1; at most 11/9 of the fewest bins there
    can be, and a fraction (Johnson 1974).

    Args:
        lengths: Each in [1, capacity].
        capacity: Of a bin.

    Returns:
        The items of each bin; bins in the order in which they were begun.
    """
    bins: list[list[int]] = []
    open_bins: dict[int, list[int]] = {}  # room -> bins that have it
    rooms: list[int] = []  # sorted
    for item in sorted(range(len(lengths)), key=lambda item: -lengths[item]):
        length = lengths[item]
        place = bisect_left(rooms, length)
        if place == len(rooms):
            chosen, room = len(bins), capacity
            bins.append([])
        else:
            room = rooms[place]
            chosen = open_bins[room].pop()
            if not open_bins[room]:
                del open_bins[room], rooms[place]
        bins[chosen].append(item)
        if room > length:
            if room - length not in open_bins:
                insort(rooms, room - length)
            open_bins.setdefault(room - length, []).append(chosen)
    return bins


class PackedDocuments(Dataset[dict[str, "Tensor"]]):
    """Sample i is window i: whole documents one after another, none of which looks into another, and padding.

    A document is read from the separator before it, and its labels end with the separator behind it; one that is longer
    than a window is cut into as few parts as possible. All tokens of the text are thus predicted once in an epoch.

    Args:
        tokens: A separator, then documents with a separator behind each.
        ends: (D,) int64, the position of the separator behind each.
        length: Tokens in a window.
        padding: The token to fill up with; its labels are -100.
    """

    # Read by ResumableLoader: no random numbers are drawn here, so there is nothing to seed.
    deterministic = True

    def __init__(self, tokens: MappedTokens, ends: Tensor, length: int, padding: int) -> None:
        self.tokens, self.length, self.padding = tokens, length, padding
        starts = torch.cat([torch.zeros(1, dtype=torch.int64), ends[:-1]])[: len(ends)]
        parts = torch.div(ends - starts + length - 1, length, rounding_mode="floor")
        owner = torch.repeat_interleave(parts)
        within = torch.arange(len(owner)) - (parts.cumsum(0) - parts)[owner]
        self._starts = starts[owner] + within * length
        self._lengths = torch.minimum(ends[owner] - self._starts, torch.tensor(length))
        bins = best_fit(self._lengths.tolist(), length)
        self._order = torch.tensor([item for items in bins for item in items], dtype=torch.int64)
        self._bounds = torch.tensor([0, *(len(items) for items in bins)]).cumsum(0)

    def __len__(self) -> int:
        return len(self._bounds) - 1

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        """`input_ids`, `labels` and `document_ids`, the number of the document in the window: (length,) int64 each.

        Padding is a document of its own, the last one.

        Raises:
            IndexError: If `index` is not in [0, len(self)).
        """
        if not 0 <= index < len(self):
            raise IndexError(f"sample {index} of {len(self)}")
        items = self._order[self._bounds[index] : self._bounds[index + 1]]
        lengths = self._lengths[items]
        documents = torch.repeat_interleave(lengths)
        first = (self._starts[items] - (lengths.cumsum(0) - lengths))[documents]
        positions = first + torch.arange(len(documents))
        rest = self.length - len(documents)
        return {
            "input_ids": _filled(self.tokens[positions], rest, self.padding),
            "labels": _filled(self.tokens[positions + 1], rest, IGNORED),
            "document_ids": _filled(documents, rest, len(items)),
        }


def _filled(row: Tensor, rest: int, value: int) -> Tensor:
    return torch.nn.functional.pad(row, (0, rest), value=value)
