"""Data parallelism: the model on every rank, gradients averaged while the backward pass runs."""

from __future__ import annotations

from typing import TYPE_CHECKING

from torch.nn.parallel import DistributedDataParallel

if TYPE_CHECKING:
    from torch import nn
    from torch.distributed.device_mesh import DeviceMesh


class Replicate:
    """Wraps the module in torch's `DistributedDataParallel` (Li et al. 2020, "PyTorch Distributed").

    Args:
        bucket_cap_mb: Gradients are averaged in buckets of this many mebibytes, while others are still computed.
        find_unused_parameters: Look for parameters without a gradient after each forward pass; costs a walk of the
            graph.
        static_graph: The same parameters are used in every step.
    """

    def __init__(
        self, *, bucket_cap_mb: int = 25, find_unused_parameters: bool = False, static_graph: bool = False
    ) -> None:
        self.bucket_cap_mb = bucket_cap_mb
        self.find_unused_parameters = find_unused_parameters
        self.static_graph = static_graph

    def __call__(self, module: nn.Module, mesh: DeviceMesh) -> nn.Module:
        """The wrapped module, for the ranks along one dimension of the mesh."""
        device = next(module.parameters()).device
        return DistributedDataParallel(
            module,
            device_ids=None if device.type == "cpu" else [device.index],
            process_group=mesh.get_group(),
            bucket_cap_mb=self.bucket_cap_mb,
            find_unused_parameters=self.find_unused_parameters,
            static_graph=self.static_graph,
        )
