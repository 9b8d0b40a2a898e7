"""Data parallelism: the model on every rank, gradients averaged while the backward pass runs."""

from __future__ import annotations

from contextlib import contextmanager, nullcontext
from typing import TYPE_CHECKING, Any

import torch
import torch.distributed as dist
from torch.nn.parallel import DistributedDataParallel
from typing_extensions import override

from trustformers_pl.errors import RefusedError
from trustformers_pl.mesh import Wrap
from trustformers_pl.parallel.types import dtype_of

if TYPE_CHECKING:
    from collections.abc import Iterator

    from torch import nn

    from trustformers_pl.mesh import Placement


class Replicate(Wrap):
    """Wraps the module in torch's `DistributedDataParallel` (Li et al. 2020, "PyTorch Distributed").

    Args:
        bucket_cap_mb: Gradients are averaged in buckets of this many mebibytes, while others are still computed.
        find_unused_parameters: Look for parameters without a gradient after each forward pass; costs a walk of the
            graph.
        static_graph: The same parameters are used in every step.
        sync_every: Micro-batches of an accumulation window between two averagings; once a window if not given.
        reduce_dtype: Type that gradients are sent and added up in, torch's or `fp32`, `bf16`, `fp16`; their own
            if not given.
    """

    takes_growth = True

    def __init__(
        self,
        *,
        bucket_cap_mb: int = 25,
        find_unused_parameters: bool = False,
        static_graph: bool = False,
        sync_every: int | None = None,
        reduce_dtype: torch.dtype | str | None = None,
    ) -> None:
        super().__init__()
        self.bucket_cap_mb = bucket_cap_mb
        self.find_unused_parameters = find_unused_parameters
        self.static_graph = static_graph
        self.sync_every = sync_every
        self.reduce_dtype = dtype_of(reduce_dtype)
        self._model: DistributedDataParallel | None = None
        self._since_sync = 0

    @override
    def place(self, module: nn.Module, placement: Placement) -> nn.Module:
        """The wrapped module, for the ranks along one dimension of the mesh."""
        device = placement.device
        self._model = model = DistributedDataParallel(
            module,
            device_ids=None if device.type == "cpu" else [device.index],
            process_group=placement.mesh.get_group(),
            bucket_cap_mb=self.bucket_cap_mb,
            find_unused_parameters=self.find_unused_parameters,
            static_graph=self.static_graph,
            gradient_as_bucket_view=True,  # else each gradient is there twice
        )
        if self.reduce_dtype is not None:
            model.register_comm_hook((placement.mesh.get_group(), self.reduce_dtype), average_as)
        _settle_buckets(model)
        return model

    @override
    def place_again(self, module: nn.Module, placement: Placement) -> nn.Module:
        """Wrap the module anew: what the old wrapper had put on its parameters is taken away first.

        Gradients are views into the old wrapper's buckets, and are dropped.
        """
        assert self._model is not None
        # Not when the old wrapper happens to be collected: what trains in both would be averaged twice until then.
        self._model._remove_autograd_hooks()  # type: ignore[no-untyped-call]
        self._model = None
        module.zero_grad(set_to_none=True)
        return self.place(module, placement)

    @contextmanager
    @override
    def without_sync(self) -> Iterator[None]:
        """Keep a micro-batch's gradients to this rank, unless its turn has come.

        Raises:
            RefusedError: Its turn has not come, and the graph is static: torch then averages in each backward pass.
        """
        assert self._model is not None
        self._since_sync += 1
        due = self.sync_every is not None and self._since_sync % self.sync_every == 0
        if self.static_graph and not due:
            raise RefusedError(
                "ddp.static_graph: torch averages gradients of a static graph in each backward pass, and micro-batches "
                "are accumulated; set gradient_sync_every to 1 (sync_every), or remove static_graph"
            )
        with nullcontext() if due else self._model.no_sync():
            yield

    @override
    def after_step(self) -> None:
        """Count anew."""
        self._since_sync = 0


def _settle_buckets(model: DistributedDataParallel) -> None:
    """Let DDP form its final buckets now, not after the first step: a resumed run would sum in another order."""
    model.reducer._push_all_rebuilt_params()
    model.reducer._rebuild_buckets()


def average_as(state: tuple[Any, torch.dtype], bucket: Any) -> torch.futures.Future[torch.Tensor]:
    """A communication hook of DDP: average a bucket in another type.

    Args:
        state: The process group, and the type.
        bucket: A `GradBucket` of gradients.

    Returns:
        The future of the bucket's averages, in its own type.
    """
    group, dtype = state
    own: torch.Tensor = bucket.buffer()
    sent = own.to(dtype).div_(group.size())

    def received(future: torch.futures.Future[Any]) -> torch.Tensor:
        averaged: torch.Tensor = future.value()[0]
        return own.copy_(averaged)

    work = dist.all_reduce(sent, group=group, async_op=True)
    averages: torch.futures.Future[torch.Tensor] = work.get_future().then(received)
    return averages


# DDP looks at the types themselves, not at their names.
TYPES = {"bucket": dist.GradBucket, "return": torch.futures.Future[torch.Tensor]}  # type: ignore[attr-defined]
average_as.__annotations__ |= TYPES
