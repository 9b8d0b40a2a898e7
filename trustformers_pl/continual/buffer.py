"""The storage of a memory: rows of a fixed size, in memory or in memory-mapped files."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from trustformers_pl.continual.memory import NOWHERE, row_bytes
from trustformers_pl.errors import DataError

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path


class Buffer:
    """Slots for samples, each a mapping of tensors of the same shapes and types.

    Args:
        capacity: Number of slots.
        row: A sample, for names, shapes and types; its values are not stored.
        folder: Where to put one file for each tensor of a sample; None keeps them in memory. Files there are
            overwritten. All of the disk space is taken at once.

    Attributes:
        filled: Slots in use, the first ones.

    Raises:
        DataError: There is no room on the disk.
    """

    def __init__(self, capacity: int, row: Mapping[str, Tensor], folder: Path | None = None) -> None:
        self.capacity = capacity
        self.filled = 0
        self.bytes = capacity * row_bytes(row)
        """What the slots take, in memory or on disk."""
        self._rows = {
            name: torch.empty(capacity, *value.shape, dtype=value.dtype)
            if folder is None
            else _mapped(folder, name, capacity, value)
            for name, value in row.items()
        }

    def __len__(self) -> int:
        return self.filled

    def write(self, slots: Tensor, rows: Mapping[str, Tensor]) -> None:
        """Store samples, one after another: of two for one slot the last stays.

        Args:
            slots: (N,) int64, -1 for what is not stored. A new slot is the first that is free.
            rows: Name -> (N, ...), on any device.

        Raises:
            ValueError: Other names or shapes than the buffer's, or a gap before a new slot.
        """
        if rows.keys() != self._rows.keys():
            raise ValueError(f"samples have {sorted(rows)}, and the buffer has {sorted(self._rows)}")
        last = {slot: index for index, slot in enumerate(slots.tolist()) if slot != NOWHERE}
        new = sorted(slot for slot in last if slot >= self.filled)
        if new != list(range(self.filled, self.filled + len(new))) or self.filled + len(new) > self.capacity:
            raise ValueError(f"new slots {new} do not follow the {self.filled} of {self.capacity} in use")
        where, which = torch.tensor([*last], dtype=torch.int64), torch.tensor([*last.values()], dtype=torch.int64)
        for name, stored in self._rows.items():
            values = rows[name].detach()
            stored[where] = values[which.to(values.device)].to(stored.device, stored.dtype)
        self.filled += len(new)

    def read(self, slots: Tensor) -> dict[str, Tensor]:
        """Copies of samples.

        Args:
            slots: (N,) int64, in use.

        Returns:
            Name -> (N, ...) on the CPU.
        """
        if len(slots) and not 0 <= int(slots.min()) <= int(slots.max()) < self.filled:
            raise IndexError(f"slots {slots.tolist()} are not all among the {self.filled} in use")
        return {name: stored[slots] for name, stored in self._rows.items()}

    def state_dict(self) -> dict[str, Tensor]:
        """Copies of all samples: files, too, go on changing after a checkpoint."""
        return {name: stored[: self.filled].clone() for name, stored in self._rows.items()}

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Hold exactly the samples of `state_dict`, whichever storage they came from.

        Raises:
            ValueError: Other names or shapes, or more samples than slots.
        """
        self.filled = 0
        self.write(torch.arange(len(next(iter(state.values())))), state)


def _mapped(folder: Path, name: str, capacity: int, value: Tensor) -> Tensor:
    path, numbers = folder / f"{name}.rows", capacity * value.numel()
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with path.open("wb") as file:
            if hasattr(os, "posix_fallocate"):  # not everywhere
                # A hole in a file is filled when it is written to, where a full disk would kill the process.
                os.posix_fallocate(file.fileno(), 0, numbers * value.dtype.itemsize)
    except OSError as error:
        raise DataError(f"replay: {path}: {error.strerror}; choose another folder or a smaller budget") from error
    return torch.from_file(str(path), shared=True, size=numbers, dtype=value.dtype).view(capacity, *value.shape)
