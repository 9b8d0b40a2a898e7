"""The dimensions of a device mesh, and what ranks that see different data do with weights and gradients."""

from __future__ import annotations

import logging
import math
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from lightning.pytorch.utilities import rank_zero_only

from trustformers_pl.errors import RefusedError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    import torch
    from torch import Tensor, nn
    from torch.distributed.device_mesh import DeviceMesh
    from torch.optim import Optimizer

logger = logging.getLogger(__name__)
DATA = "data_parallel"


@dataclass(frozen=True)
class Placement:
    """Where a module is put.

    Attributes:
        mesh: This dimension's submesh; of several data dimensions the joint one, with the outer ones first.
        device: Of this rank.
        compute_dtype: What the forward pass shall compute in, where that is the strategy's to do; None: as it is.
    """

    mesh: DeviceMesh
    device: torch.device
    compute_dtype: torch.dtype | None = None


class Wrap:
    """What a dimension does to the module, and to the optimizers; this one: nothing.

    Attributes:
        shards: By the `id` of each parameter of which the optimizer has but a shard, that shard.
        shards_weights: Whether the module's own parameters become shards (`DTensor`s) by `place`.
        on_host: Whether the ranks of an accelerator must also be able to speak of tensors in host memory.
        takes_growth: Whether `place_again` can follow a module that grows while it is fitted.
    """

    shards_weights = False
    on_host = False
    takes_growth = False

    def __init__(self) -> None:
        self.shards: Mapping[int, Tensor] = {}

    def refuse(self, module: nn.Module) -> None:
        """Look at the module before any process group is there.

        Raises:
            RefusedError: It cannot be placed.
        """

    def place(self, module: nn.Module, placement: Placement) -> nn.Module:
        """Wrap or change a module that is fitted; returns what runs the forward pass."""
        del placement
        return module

    def place_again(self, module: nn.Module, placement: Placement) -> nn.Module:
        """Wrap a module anew that has grown, at a step boundary; where `takes_growth`."""
        return self.place(module, placement)

    def place_for_evaluation(self, module: nn.Module, placement: Placement) -> None:
        """Change a module that is only evaluated."""

    def after_backward(self) -> None:
        """Called when a backward pass has ended."""

    def take_over(self, optimizers: Sequence[Optimizer]) -> None:
        """See, and change, the parameters that the optimizers train; called once for each fit."""

    def without_sync(self) -> AbstractContextManager[Any]:
        """Inside, backward passes leave gradients unsynchronised: another micro-batch follows."""
        return nullcontext()

    def after_step(self) -> None:
        """Called when an optimizer may have changed the weights."""

    def after_load(self) -> None:
        """Called when the module's weights were loaded."""


def say_where_nothing_is_saved(device: torch.device, what: str) -> None:
    """Say once, on rank 0, that moving something to host memory saves nothing where the device is the host."""
    if device.type == "cpu" and getattr(rank_zero_only, "rank", 0) == 0:
        logger.warning(
            "%s: there is no accelerator here, so offloading saves nothing; a copy is made all the same", what
        )


@dataclass(frozen=True)
class Dimension:
    """One dimension of the mesh.

    Attributes:
        name: Of the dimension.
        size: Ranks along it; None takes all that the other dimensions leave.
        wrap: What it does to the module. Of several data dimensions the innermost has one, for all of them.
        data: Whether ranks along it see different data; `data_parallel` always does.
    """

    name: str
    size: int | None = None
    wrap: Wrap | None = None
    data: bool = field(default=False)

    @property
    def has_data(self) -> bool:
        """Whether ranks along it see different data."""
        return self.data or self.name == DATA


def mesh_sizes(dimensions: Sequence[Dimension], ranks: int) -> dict[str, int]:
    """The size of each dimension for a number of ranks.

    Raises:
        RefusedError: They do not multiply to it, two have one name, or two leave their size open.
    """
    if not dimensions:
        return {DATA: ranks}
    names = [dimension.name for dimension in dimensions]
    open_ones = [dimension.name for dimension in dimensions if dimension.size is None]
    if len(set(names)) < len(names) or len(open_ones) > 1:
        raise RefusedError(f"mesh: dimensions {', '.join(names)}: give each its own name, and a size to all but one")
    fixed = math.prod(dimension.size for dimension in dimensions if dimension.size is not None)
    if ranks % fixed or (not open_ones and fixed != ranks):
        shown = ", ".join(f"{dimension.name}={dimension.size or 'the rest'}" for dimension in dimensions)
        raise RefusedError(f"mesh: {shown} do not make up {ranks} ranks; change a size, or the number of devices")
    return {d.name: ranks // fixed if d.size is None else d.size for d in dimensions}
