"""What ranks that share weights send each other, in the way that costs least on their backend.

On gloo a reduce-scatter is an all-reduce inside, with copies around it, and an all-gather takes five times as long as
broadcasts of the same numbers (torch 2.13, two ranks, 40 MB): there it is written as what is cheaper.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch.distributed as dist

if TYPE_CHECKING:
    from collections.abc import Callable

    from torch import Tensor
    from torch.distributed import ProcessGroup

# Torch has other names for them since 2.13, and warns of these.
_reduce_scatter: Callable[..., Any] = getattr(dist, "reduce_scatter_single", None) or dist.reduce_scatter_tensor
_all_gather: Callable[..., Any] = getattr(dist, "all_gather_single", None) or dist.all_gather_into_tensor


def reduced(rows: Tensor, group: ProcessGroup, *, scatter: bool) -> tuple[Tensor, Any]:
    """Start to add up rows over ranks.

    Args:
        rows: (ranks, n), this rank's summands for each rank; may be overwritten.
        group: Of the ranks.
        scatter: Send each rank its own sum only, where the backend knows how.

    Returns:
        Where this rank's sum will be, (n,), and the work to wait for.
    """
    if scatter and not is_gloo(rows, group):
        own = rows.new_empty(rows.shape[1])
        return own, _reduce_scatter(own, rows.view(-1), group=group, async_op=True)
    return rows[dist.get_rank(group)], dist.all_reduce(rows, group=group, async_op=True)


def gather(of_all: Tensor, own: Tensor, group: ProcessGroup) -> None:
    """Bring each rank's row to all of them.

    Args:
        of_all: (ranks, n), contiguous; filled.
        own: (n,), this rank's; may be its row in `of_all`.
        group: Of the ranks.
    """
    if not is_gloo(own, group):
        _all_gather(of_all.view(-1), own, group=group)
        return
    row = of_all[dist.get_rank(group)]
    if row.data_ptr() != own.data_ptr():
        row.copy_(own)
    works = [dist.broadcast(row, group=group, group_src=rank, async_op=True) for rank, row in enumerate(of_all)]
    for work in works:
        work.wait()


def is_gloo(tensor: Tensor, group: ProcessGroup) -> bool:
    """Whether gloo sends this tensor."""
    return tensor.device.type == "cpu" and "gloo" in dist.get_backend(group)
