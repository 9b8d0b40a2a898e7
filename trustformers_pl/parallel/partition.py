"""ZeRO stages 1 and 2: whole weights on every rank, optimizer state, and gradients, of a part of them."""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Literal

from torch.autograd import Variable
from torch.distributed.utils import _sync_module_states
from typing_extensions import override

from trustformers_pl.errors import RefusedError
from trustformers_pl.mesh import Wrap, say_where_nothing_is_saved
from trustformers_pl.parallel.buckets import Bucket, Reduction, in_buckets
from trustformers_pl.parallel.collectives import is_gloo
from trustformers_pl.parallel.parameter_shard import ParameterShard, ShardMesh
from trustformers_pl.parallel.publication import Publication, is_worth_it
from trustformers_pl.parallel.types import dtype_of
from trustformers_pl.parallel.whole_gradient import WholeGradient, tell

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    import torch
    from torch import nn
    from torch.optim import Optimizer

    from trustformers_pl.mesh import Placement

MEBIBYTE = 2**20


class Partition(Wrap):
    """Optimizers get a shard of each weight; gradients are reduced to those shards while the backward pass runs.

    Rajbhandari et al. 2020, "ZeRO: Memory Optimizations Toward Training Trillion Parameter Models", section 5: stage 1
    partitions the optimizer state (P_os), stage 2 the gradients too (P_os+g). A shard is a DTensor, cut along the first
    dimension, which shares the weight's memory: the optimizer's step changes this rank's part of the weight, and an
    all-gather afterwards the rest of it. Each step sends what data parallelism sends; on gloo half as much again, as
    its reduce-scatter sends all sums to all.

    Stage 1 keeps a whole gradient on each rank, and synchronises once for each accumulation window; stage 2 keeps
    shards, and synchronises each micro-batch.

    Args:
        stage: 1 or 2.
        bucket_size_mb: Mebibytes of gradients that are reduced at once, and of weights that are gathered at once.
        overlap: Reduce while the backward pass computes other gradients; False waits for each bucket.
        reduce_scatter: Send each rank its shard only, where the backend can; False sends the whole sum to all.
        reduce_dtype: Type that gradients are added up in, torch's or `fp32`, `bf16`, `fp16`; their own if not given.
        offload_optimizer: Keep the optimizer's shards and its state in host memory, and step there.
    """

    def __init__(
        self,
        stage: Literal[1, 2] = 1,
        *,
        bucket_size_mb: float = 25,
        overlap: bool = True,
        reduce_scatter: bool = True,
        reduce_dtype: torch.dtype | str | None = None,
        offload_optimizer: bool = False,
    ) -> None:
        super().__init__()
        self.stage = stage
        self.bucket_bytes = int(bucket_size_mb * MEBIBYTE)
        self.reduction = Reduction(overlap=overlap, scatter=reduce_scatter, dtype=dtype_of(reduce_dtype))
        self.offload_optimizer = self.on_host = offload_optimizer
        self._mesh: ShardMesh | None = None
        self._parts: list[ParameterShard] = []
        self._buckets: list[Bucket] = []
        self._publication: Publication | None = None
        self._waiting = False  # for further micro-batches of a window
        self._running = False  # a backward pass whose gradients are being reduced

    @override
    def place(self, module: nn.Module, placement: Placement) -> nn.Module:
        """Let all ranks start from rank 0's weights and buffers."""
        if self.offload_optimizer:
            say_where_nothing_is_saved(placement.device, "zero.offload_optimizer")
        self._mesh = ShardMesh.of(placement.mesh)
        for group in self._mesh.groups:
            _sync_module_states(
                module, group, broadcast_bucket_size=250 * MEBIBYTE, src=0, params_and_buffers_to_ignore=()
            )
        return module

    @override
    def take_over(self, optimizers: Sequence[Optimizer]) -> None:
        """Give the optimizers shards in place of parameters.

        Raises:
            RefusedError: An optimizer has made steps already, or two train the same parameter.
        """
        assert self._mesh is not None
        self._release()
        for optimizer in optimizers:
            self._replace(optimizer)
        self.shards = {id(part.parameter): part.shard for part in self._parts}
        self._buckets = self._in_buckets(self._mesh)
        self._publication = Publication(self._parts, self.bucket_bytes, self._mesh)
        for bucket in self._buckets:
            for part in bucket.parts:
                part.watch(self._ready)

    def _in_buckets(self, mesh: ShardMesh) -> list[Bucket]:
        """The last parameters first, as backward passes come to them; large ones alone where that saves copies."""
        in_place = self.stage == 1 and not self.on_host and self.reduction.dtype is None
        alone = [
            p
            for p in self._parts
            if in_place and is_worth_it(p.parameter, mesh.ranks) and is_gloo(p.parameter, mesh.group)
        ]
        ids = {id(part) for part in alone}
        together = in_buckets([p for p in self._parts if id(p) not in ids], self.bucket_bytes, mesh, self.reduction)
        buckets = [*together, *(WholeGradient([part], mesh, self.reduction) for part in alone)]
        place = {id(part): number for number, part in enumerate(self._parts)}
        return sorted(buckets, key=lambda bucket: -place[id(bucket.parts[0])])

    def _replace(self, optimizer: Optimizer) -> None:
        assert self._mesh is not None
        refuse_begun(optimizer)
        known = {id(part.parameter) for part in self._parts}
        for group in optimizer.param_groups:
            twice = [parameter for parameter in group["params"] if id(parameter) in known]
            if twice:
                raise RefusedError("zero: two optimizers train the same parameter; give each parameter to one of them")
            parts = [ParameterShard.of(p, self._mesh, on_host=self.offload_optimizer) for p in group["params"]]
            group["params"] = [part.shard for part in parts]
            self._parts.extend(parts)
        if self.stage == 1:
            drop_whole_gradients_too(optimizer, self._parts)

    @contextmanager
    @override
    def without_sync(self) -> Iterator[None]:
        """Stage 1: keep this micro-batch's gradients to this rank. Stage 2 has no room for whole gradients."""
        self._waiting = self.stage == 1
        try:
            yield
        finally:
            self._waiting = False

    def _ready(self, part: ParameterShard) -> None:
        """A gradient is complete: reduce its bucket if it was the last one, and those before it are under way."""
        if self._waiting:
            return
        if not self._running:
            self._running = True
            for bucket in self._buckets:
                bucket.begin()
            Variable._execution_engine.queue_callback(self._finish)
        part.ready = True
        self._launch(only_complete=True)

    def _launch(self, *, only_complete: bool) -> None:
        # In one order on all ranks, whatever is ready first: else a rank's bucket would meet another one's.
        for bucket in self._buckets:
            if bucket.launched or bucket.idle:
                continue
            if only_complete and not bucket.complete:
                break
            bucket.launch(keep_whole=self.stage == 1)

    def _finish(self) -> None:
        """At the end of a backward pass: reduce what is left, and leave the sums on the shards."""
        self._launch(only_complete=False)
        assert self._mesh is not None
        tell(self._buckets, self._mesh)
        for bucket in self._buckets:
            if bucket.launched:
                bucket.finish(keep_whole=self.stage == 1)
        self._running = False

    @override
    def after_step(self) -> None:
        """Gather the weights that the other ranks have changed."""
        if self._publication is not None:
            self._publication.gather()

    @override
    def after_load(self) -> None:
        """Take loaded weights over where shards have memory of their own."""
        for part in self._parts:
            part.refresh()

    def _release(self) -> None:
        for part in self._parts:
            part.release()
        self._parts, self._buckets, self.shards = [], [], {}


def refuse_begun(optimizer: Optimizer) -> None:
    """Refuse an optimizer whose state is of whole weights.

    Raises:
        RefusedError: It has made steps.
    """
    if any(optimizer.state.values()):
        raise RefusedError(
            f"zero: {type(optimizer).__name__} has state of whole weights already; give a new optimizer, or go on from "
            "a checkpoint"
        )


def drop_whole_gradients_too(optimizer: Optimizer, parts: list[ParameterShard]) -> None:
    """Let an optimizer's `zero_grad` drop the whole gradients that its shards' gradients are views of.

    By its class, as Lightning's wrapper of an optimizer inherits from that.
    """
    kind: Any = type(optimizer)

    def zero_grad(self: Any, set_to_none: bool = True) -> None:
        del set_to_none  # views must not outlive what they are views of
        kind.zero_grad(self, set_to_none=True)
        for part in parts:
            part.parameter.grad = None

    body = {"zero_grad": zero_grad, "__module__": kind.__module__, "__doc__": kind.__doc__}
    optimizer.__class__ = type(kind.__name__, (kind,), body)
