"""One Strategy for every parallel run: a device mesh whose dimensions plugins contribute."""

from __future__ import annotations

import math
import os
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

import torch
from lightning.pytorch.strategies import DDPStrategy, Strategy
from torch import Tensor, nn
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh
from torch.nn.parallel import DistributedDataParallel
from typing_extensions import override

from trustformers_pl.errors import RefusedError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from lightning import Trainer

DATA = "data_parallel"
THREADS = "OMP_NUM_THREADS"


class Wrap(Protocol):
    """What a dimension does to the module once the mesh is there and the weights are on their device."""

    def __call__(self, module: nn.Module, mesh: DeviceMesh) -> nn.Module:
        """Wrap or change the module for this dimension's submesh; returns what runs the forward pass."""


@dataclass(frozen=True)
class Dimension:
    """One dimension of the mesh.

    Attributes:
        name: Of the dimension; ranks along `data_parallel` see different data.
        size: Ranks along it; None takes all that the other dimensions leave.
        wrap: What it does to the module while fitting, outer dimensions last.
    """

    name: str
    size: int | None = None
    wrap: Wrap | None = None


class MeshStrategy(DDPStrategy):
    """Runs on a `torch.distributed` device mesh; gloo on the CPU and NCCL on GPUs, by the same code.

    Process groups, launching and reductions are Lightning's; what the ranks do with the module is the dimensions'.
    Works in a stock Trainer: `Trainer(strategy=MeshStrategy([Dimension("data_parallel", wrap=Replicate())]))`.

    Args:
        dimensions: Outer ones first. Without one called `data_parallel`, all ranks see the same data.
        process_group_backend: As torch knows it; found from the device if not given.
    """

    def __init__(self, dimensions: Sequence[Dimension] = (), process_group_backend: str | None = None) -> None:
        super().__init__(process_group_backend=process_group_backend)
        self.dimensions = tuple(dimensions)
        self._mesh: DeviceMesh | None = None

    @property
    def mesh(self) -> DeviceMesh:
        """The mesh, from `setup_environment` on.

        Raises:
            RuntimeError: Asked for before.
        """
        if self._mesh is None:
            raise RuntimeError("the device mesh is there from Strategy.setup_environment on")
        return self._mesh

    @override
    def setup_environment(self) -> None:
        """Join the process group, and lay the mesh over it.

        Raises:
            RefusedError: The dimensions' sizes do not multiply to the number of ranks. No process group is left open.
        """
        sizes = mesh_sizes(self.dimensions, self.num_nodes * self.num_processes)  # refused before any group is made
        super().setup_environment()
        self._mesh = init_device_mesh(self.root_device.type, tuple(sizes.values()), mesh_dim_names=tuple(sizes))

    @override
    def _configure_launcher(self) -> None:
        super()._configure_launcher()
        self._threads_before = torch.get_num_threads(), os.environ.get(THREADS)

    @override
    def teardown(self) -> None:
        super().teardown()
        self._restore_threads()

    def _restore_threads(self) -> None:
        """Take back what Lightning's launcher sets: a later run in this process would add up in another order."""
        number, variable = self._threads_before
        torch.set_num_threads(number)
        if variable is None:
            os.environ.pop(THREADS, None)

    @property
    def data_ranks(self) -> int:
        """How many ranks see different data."""
        return self.mesh[DATA].size() if DATA in (self.mesh.mesh_dim_names or ()) else 1

    @property
    def data_rank(self) -> int:
        """Which of them this one is."""
        return self.mesh[DATA].get_local_rank() if self.data_ranks > 1 else 0

    def sum_over_data_ranks(self, values: Tensor) -> Tensor:
        """The sum of a tensor over the ranks that see different data."""
        if self.data_ranks == 1:
            return values
        summed = values.clone()
        torch.distributed.all_reduce(summed, group=self.mesh[DATA].get_group())
        return summed

    @property
    @override
    def distributed_sampler_kwargs(self) -> dict[str, int]:
        return {"num_replicas": self.data_ranks, "rank": self.data_rank}

    @override
    def configure_ddp(self) -> None:
        """Wrap the module by the dimensions, inner ones first."""
        assert self.model is not None
        for dimension in reversed(self.dimensions):
            if dimension.wrap is not None:
                self.model = dimension.wrap(self.model, self.mesh[dimension.name])

    @override
    def setup(self, trainer: Trainer) -> None:
        super().setup(trainer)
        self._settle_buckets()

    def _settle_buckets(self) -> None:
        """Let DDP form its final buckets now, not after the first step: a resumed run would sum in another order."""
        if isinstance(self.model, DistributedDataParallel):
            self.model.reducer._push_all_rebuilt_params()
            self.model.reducer._rebuild_buckets()

    optimizer_step = Strategy.optimizer_step  # DDP's averages models, by hooks that this strategy does not have


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
