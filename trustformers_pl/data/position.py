"""Where a loader's next iteration begins."""

from __future__ import annotations

from typing import Self


class Positioned:
    """The place in (epoch, batch) of the next iteration: batch 0 of the epoch that Lightning tells, or what was sought.

    Not a `DataLoader`, so that Lightning neither replaces its sampler nor rebuilds it.
    """

    batch_sampler = None
    _epoch = 0
    _position: tuple[int, int] | None = None

    @property
    def sampler(self) -> Self:
        """Itself: Lightning tells a loader's sampler the epoch, through `set_epoch`."""
        return self

    def set_epoch(self, epoch: int) -> None:
        """Let iterations be of this epoch from now on, unless `seek` says otherwise for the next one."""
        self._epoch = epoch

    def _begin(self) -> tuple[int, int]:
        """Epoch and batch of the iteration that starts; the next one is of the told epoch again."""
        position, self._position = self._position, None
        return position or (self._epoch, 0)
