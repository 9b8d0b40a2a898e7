"""A memory of one rank that is laid out when its first sample comes: by a number of samples or a budget of bytes."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch

from trustformers_pl.continual.buffer import Buffer
from trustformers_pl.continual.memory import affordable, row_bytes
from trustformers_pl.continual.room import make_folder, refuse_no_room
from trustformers_pl.continual.rows import refuse_other_shapes
from trustformers_pl.errors import RefusedError

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from torch import Tensor

CAPACITY = 200


class Store:
    """Rows in slots, in memory or on disk.

    Args:
        capacity: Samples of all ranks together, at most; None: as many as the budget holds, `CAPACITY` without one.
        budget: Bytes of all ranks together; None: what the samples take.
        ranks: How many share them.
        folder: Of this rank's files; None keeps the samples in memory.
        section: Named in errors.
        beside: How many of them are on this machine.

    Raises:
        RefusedError: Less than a sample a rank.
        DataError: The budget is larger than what is free on the disk or in memory.
    """

    def __init__(
        self,
        capacity: int | None,
        budget: int | None,
        ranks: int,
        folder: Path | None = None,
        section: str = "replay",
        beside: int = 1,
    ) -> None:
        if capacity is None and budget is None:
            capacity = CAPACITY
        if capacity is not None and capacity < ranks:
            raise RefusedError(
                f"{section}: capacity={capacity} on {ranks} ranks, each of which keeps its share; raise it"
            )
        self._capacity = None if capacity is None else capacity // ranks
        self._budget = None if budget is None else budget // ranks
        self.folder, self.section, self.beside = folder, section, beside
        self.buffer: Buffer | None = None
        self._shapes: dict[str, Any] = {}
        if self._budget is not None and self._capacity is None:
            refuse_no_room(self._budget * beside, "bytes: the ranks here may take", folder, section)
        if folder is not None:
            make_folder(folder, section)

    @property
    def filled(self) -> int:
        """Slots in use."""
        return 0 if self.buffer is None else self.buffer.filled

    def capacity_for(self, rows: Mapping[str, Tensor]) -> int:
        """How many samples like these this rank keeps.

        Args:
            rows: Name -> (N, ...), N > 0.

        Raises:
            RefusedError: Not even one.
        """
        limits = [] if self._capacity is None else [self._capacity]
        if self._budget is not None:
            row = {name: value[0] for name, value in rows.items()}
            limits.append(affordable(self._budget, row, section=self.section))
        return min(limits)

    def refuse_no_room(self, rows: Mapping[str, Tensor]) -> None:
        """Refuse samples like these where there is no room for as many as are to be kept.

        Args:
            rows: As for `capacity_for`.

        Raises:
            RefusedError: Not even one may be kept.
            DataError: There is less.
        """
        if self.buffer is None:
            number, size = self.capacity_for(rows), row_bytes({name: value[0] for name, value in rows.items()})
            what = f"{number * self.beside} samples of {size} bytes take"
            refuse_no_room(number * size * self.beside, what, self.folder, self.section)

    def write(self, slots: Tensor, rows: Mapping[str, Tensor]) -> None:
        """Store samples, as `Buffer.write` does; the first ones decide names, shapes and types.

        Raises:
            DataError: Others have other ones, or there is no room on the disk.
        """
        if not len(slots):
            return
        if self.buffer is None:
            self.refuse_no_room(rows)
            self.buffer = Buffer(self.capacity_for(rows), {name: value[0] for name, value in rows.items()}, self.folder)
            self._shapes = {name: value.shape[1:] for name, value in rows.items()}
        refuse_other_shapes(rows, self._shapes, self.section)
        self.buffer.write(slots, rows)

    def read(self, slots: Tensor) -> dict[str, Tensor]:
        """Copies of samples, as `Buffer.read` gives them."""
        assert self.buffer is not None
        return self.buffer.read(slots)

    def refill(self, rows: Mapping[str, Tensor]) -> None:
        """Hold exactly these samples."""
        if self.buffer is not None:
            self.buffer.filled = 0
        self.write(torch.arange(len(next(iter(rows.values()), ()))), rows)

    def state_dict(self) -> dict[str, Tensor]:
        """Copies of all samples; nothing before the first one."""
        return {} if self.buffer is None else self.buffer.state_dict()

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Hold exactly the samples of `state_dict`, whichever storage they came from."""
        if state and len(next(iter(state.values()))):
            self.refill(state)
        elif self.buffer is not None:
            self.buffer.filled = 0
