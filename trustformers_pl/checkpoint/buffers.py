"""Host memory that is used again: training waits for a copy of its state, not for the disk."""

from __future__ import annotations

import contextlib
import mmap
from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from collections.abc import Mapping

    from torch import Tensor

_ALIGNED = 64  # bytes: of a cache line, and a multiple of every element's size


class Buffers:
    """One block of host memory as large as the largest state it was given; pinned where tensors come from a GPU.

    Used again and again because fresh memory costs more than the copy: every page of it is first zeroed by the system.
    """

    def __init__(self) -> None:
        self._block: Tensor | None = None

    def copy(self, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Copy tensors; when it returns, the originals may change.

        Args:
            tensors: Contiguous tensors of any shape and dtype, on any devices.

        Returns:
            The copies by the same names, contiguous, in host memory: until the next call, which overwrites them.
        """
        offsets, end = {}, 0
        for name, tensor in tensors.items():
            offsets[name] = end
            end += -(-tensor.nbytes // _ALIGNED) * _ALIGNED
        devices = {tensor.device for tensor in tensors.values() if tensor.is_cuda}
        block = self._room(end, pinned=bool(devices))
        copies = {}
        for name, tensor in tensors.items():
            place = block[offsets[name] : offsets[name] + tensor.nbytes].view(tensor.dtype).view(tensor.shape)
            copies[name] = place.copy_(tensor, non_blocking=tensor.is_cuda)
        for device in devices:
            torch.cuda.current_stream(device).synchronize()
        return copies

    def release(self) -> None:
        """Give the memory back."""
        self._block = None

    def _room(self, size: int, *, pinned: bool) -> Tensor:
        if self._block is None or self._block.numel() < size or (pinned and not self._block.is_pinned()):
            self._block = None  # before the new one: never two of them
            self._block = torch.empty(size, dtype=torch.uint8, pin_memory=True) if pinned else _pages(size)
        return self._block


def _pages(size: int) -> Tensor:
    """Memory in large pages where the system has them: a copy is a tenth faster, and its first use far faster."""
    memory = mmap.mmap(-1, max(size, mmap.PAGESIZE))
    if hasattr(mmap, "MADV_HUGEPAGE"):
        with contextlib.suppress(OSError):  # a kernel without them
            memory.madvise(mmap.MADV_HUGEPAGE)
    return torch.frombuffer(memory, dtype=torch.uint8)
