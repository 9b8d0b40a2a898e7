"""ZeRO stage 3: weights, gradients and optimizer state of each rank are a part of the whole, by torch's FSDP2."""

from __future__ import annotations

from functools import wraps
from typing import TYPE_CHECKING, Any

import torch
from torch.distributed.fsdp import (
    CPUOffloadPolicy,
    FSDPModule,
    MixedPrecisionPolicy,
    OffloadPolicy,
    fully_shard,
    register_fsdp_forward_method,
)
from torch.distributed.utils import _sync_module_states
from torch.nn.modules.batchnorm import _NormBase
from typing_extensions import override

from trustformers_pl.compose import USER_CLASS, user_class
from trustformers_pl.deferred import deferred_record, fill
from trustformers_pl.errors import RefusedError
from trustformers_pl.mesh import Wrap, say_where_nothing_is_saved
from trustformers_pl.model_parts import sharding_roots
from trustformers_pl.parallel.host_shards import HostShards
from trustformers_pl.parallel.partition import refuse_begun
from trustformers_pl.parallel.types import dtype_of
from trustformers_pl.parallel.units import sharding_units
from trustformers_pl.parallel.unshardable import refuse_unshardable

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import nn
    from torch.optim import Optimizer

    from trustformers_pl.mesh import Placement


OPEN_CALLS = "_open_calls"
# What computes with a module's weights besides `forward`: of Lightning, and of language models; others are named by
# `ModelPart.forward_methods`. What one of them calls finds the weights gathered.
METHODS = ("training_step", "validation_step", "test_step", "predict_step", "generate")


class FullyShard(Wrap):
    """Shards a module by torch's `fully_shard`; a unit is gathered before it computes, and freed afterwards.

    Rajbhandari et al. 2020, "ZeRO", section 5.3 (P_os+g+p); Zhao et al. 2023, "PyTorch FSDP". On a mesh of two
    dimensions shards have copies along the first (HSDP). The module's parameters are DTensors from then on, cut along
    the first dimension; optimizers are built from them.

    Args:
        units: Names of classes whose modules are units; the items of `ModuleList`s if not given.
        reshard_after_forward: Free a unit's weights after its forward pass, and gather them again for the backward
            pass; False keeps them in between.
        reduce_dtype: Type that gradients are added up in, torch's or `fp32`, `bf16`, `fp16`; their own if not given.
        offload_params: Keep shards, gradients and optimizer state in host memory, and step there.
        offload_optimizer: Keep what the optimizer trains, and its state, in host memory, and step there.
    """

    shards_weights = True

    def __init__(
        self,
        *,
        units: Sequence[str] = (),
        reshard_after_forward: bool = True,
        reduce_dtype: torch.dtype | str | None = None,
        offload_params: bool = False,
        offload_optimizer: bool = False,
    ) -> None:
        super().__init__()
        self.units = tuple(units)
        self.reshard_after_forward = reshard_after_forward
        self.reduce_dtype = dtype_of(reduce_dtype)
        self.offload_params = offload_params
        self.on_host = offload_params or offload_optimizer
        self._host = HostShards() if offload_optimizer and not offload_params else None
        self._sharded: dict[int, nn.Parameter] = {}

    @override
    def refuse(self, module: nn.Module) -> None:
        """Parameters that cannot be cut, or are tied across units."""
        refuse_unshardable(module, self.units)

    @override
    def place(self, module: nn.Module, placement: Placement) -> nn.Module:
        """Shard the module in place, from rank 0's values."""
        if isinstance(module, FSDPModule):
            raise RefusedError(
                f"{user_class(type(module)).__name__}: sharded already, by an earlier run; give this run a new one"
            )
        if self.on_host:
            what = "zero.offload_params" if self.offload_params else "zero.offload_optimizer"
            say_where_nothing_is_saved(placement.device, what)
        before = dict(module.named_parameters())
        if deferred_record(module) is None:
            for group in placement.mesh.get_all_groups():
                _sync_module_states(
                    module, group, broadcast_bucket_size=250 * 2**20, src=0, params_and_buffers_to_ignore=()
                )
        self._shard(module, placement)
        after = dict(module.named_parameters())
        self._sharded = {id(parameter): after[name] for name, parameter in before.items()}
        return module

    @override
    def place_for_evaluation(self, module: nn.Module, placement: Placement) -> None:
        """As for training, unless it is sharded from a fit."""
        if not isinstance(module, FSDPModule):
            self.place(module, placement)

    def _shard(self, module: nn.Module, placement: Placement) -> None:
        options: dict[str, Any] = {
            "mesh": placement.mesh,
            "offload_policy": CPUOffloadPolicy(pin_memory=placement.device.type != "cpu")
            if self.offload_params
            else OffloadPolicy(),
        }
        # Masters get gradients in their own type, as without sharding, unless another one is asked for.
        reduce = self.reduce_dtype or (None if placement.compute_dtype is None else torch.float32)
        policy = MixedPrecisionPolicy(param_dtype=placement.compute_dtype, reduce_dtype=reduce)
        # The whole module's inputs are batches, whose targets stay as they are.
        policy_of_roots = MixedPrecisionPolicy(
            param_dtype=placement.compute_dtype, reduce_dtype=reduce, cast_forward_inputs=False
        )
        as_it_is = MixedPrecisionPolicy(reduce_dtype=reduce)
        for part in sharding_roots(module).values():
            if placement.compute_dtype is not None:
                for layer in part.module.modules():
                    if isinstance(layer, _NormBase):  # statistics in float32, as at opt level O2 without sharding
                        fully_shard(
                            layer, reshard_after_forward=self.reshard_after_forward, mp_policy=as_it_is, **options
                        )
            for unit in sharding_units(part.module, self.units).values():
                fully_shard(unit, reshard_after_forward=self.reshard_after_forward, mp_policy=policy, **options)
            _shard_root(part.module, policy_of_roots, options)
            for name in (*METHODS, *part.forward_methods):
                _compute_in(part.module, name)
        if deferred_record(module) is not None:
            module.to_empty(device="cpu" if self.offload_params else placement.device)
            fill(module)

    @override
    def take_over(self, optimizers: Sequence[Optimizer]) -> None:
        """Bind optimizers that were made from the whole parameters to their shards.

        Raises:
            RefusedError: One trains something that is no parameter of the module.
        """
        for optimizer in optimizers:
            refuse_begun(optimizer)
            for group in optimizer.param_groups:
                group["params"] = [self._sharded.get(id(parameter), parameter) for parameter in group["params"]]
        if self._host is not None:
            self.shards = self._host.take_over(optimizers)

    @override
    def after_backward(self) -> None:
        """Move gradients to the host."""
        if self._host is not None:
            self._host.collect()

    @override
    def after_step(self) -> None:
        """Bring what the optimizer has changed on the host to the device."""
        if self._host is not None:
            self._host.publish()

    @override
    def after_load(self) -> None:
        """Take loaded weights over to the host."""
        if self._host is not None:
            self._host.refresh()


def _shard_root(module: nn.Module, policy: MixedPrecisionPolicy, options: dict[str, Any]) -> None:
    plain = type(module)
    fully_shard(module, mp_policy=policy, **options)
    if type(module) is not plain and USER_CLASS not in vars(type(module)):
        # torch makes a class of its own; state is known by the name of the user's.
        setattr(type(module), USER_CLASS, plain)
    module.register_forward_hook(_free_after_evaluation)


def _free_after_evaluation(module: Any, inputs: Any, outputs: Any) -> None:
    """Free what a forward pass has gathered, as no backward pass will; a method that called it may still need it."""
    del inputs, outputs
    if not torch.is_grad_enabled() and not vars(module).get(OPEN_CALLS):
        module.reshard()


def _compute_in(module: Any, name: str) -> None:
    """Let a method gather what it computes with, and free it afterwards where no backward pass will."""
    if not callable(getattr(module, name, None)):
        return
    plain = getattr(module, name)
    register_fsdp_forward_method(module, name)
    gathering = getattr(module, name)
    calls = vars(module).setdefault(OPEN_CALLS, [])

    @wraps(plain)
    def method(*arguments: Any, **named: Any) -> Any:
        if calls:  # the outer one has gathered, and frees
            return plain(*arguments, **named)
        calls.append(name)
        try:
            answer = gathering(*arguments, **named)
        finally:
            calls.pop()
        if not torch.is_grad_enabled():
            module.reshard()
        return answer

    setattr(module, name, method)
