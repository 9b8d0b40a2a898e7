"""Host memory that is used again: training waits for a copy of its state, not for the disk."""

from __future__ import annotations

import contextlib
import mmap
import os
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from torch import Tensor

_WORTH_TWO = 2**24  # bytes: some milliseconds of copying
_ALIGNED = 64  # bytes: of a cache line, and a multiple of every element's size


class Buffers:
    """One block of host memory as large as the largest state it was given; pinned where tensors come from a GPU.

    Used again and again because fresh memory costs more than the copy: every page of it is first zeroed by the system.
    """

    def __init__(self) -> None:
        self._block: Tensor | None = None
        self._second: ThreadPoolExecutor | None = None

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
        copies = {
            name: block[offsets[name] : offsets[name] + tensor.nbytes].view(tensor.dtype).view(tensor.shape)
            for name, tensor in tensors.items()
        }
        pairs = [(copies[name], tensor) for name, tensor in tensors.items()]
        if end < _WORTH_TWO or devices or torch.get_num_threads() > 1 or _processors() == 1:
            _copy(iter(pairs))
        else:
            self._copy_by_two(iter(pairs))
        for device in devices:
            torch.cuda.current_stream(device).synchronize()
        return copies

    def _copy_by_two(self, pairs: Iterator[tuple[Tensor, Tensor]]) -> None:
        """Where torch has one thread: one reaches but part of what the memory can, and training waits meanwhile."""
        if self._second is None:
            self._second = ThreadPoolExecutor(1, thread_name_prefix="checkpoint-copy")
        other = self._second.submit(_copy, pairs)  # whoever is ready takes the next one
        _copy(pairs)
        other.result()

    def release(self) -> None:
        """Give the memory back."""
        self._block = None
        if self._second is not None:
            self._second.shutdown()
        self._second = None

    def _room(self, size: int, *, pinned: bool) -> Tensor:
        if self._block is None or self._block.numel() < size or (pinned and not self._block.is_pinned()):
            self._block = None  # before the new one: never two of them
            self._block = torch.empty(size, dtype=torch.uint8, pin_memory=True) if pinned else _pages(size)
        return self._block


def _copy(pairs: Iterator[tuple[Tensor, Tensor]]) -> None:
    for place, tensor in pairs:
        place.copy_(tensor, non_blocking=tensor.is_cuda)


def _processors() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _pages(size: int) -> Tensor:
    """Memory in large pages where the system has them: a copy is a tenth faster, and its first use far faster."""
    memory = mmap.mmap(-1, max(size, mmap.PAGESIZE))
    if hasattr(mmap, "MADV_HUGEPAGE"):
        with contextlib.suppress(OSError):  # a kernel without them
            memory.madvise(mmap.MADV_HUGEPAGE)
    return torch.frombuffer(memory, dtype=torch.uint8)
