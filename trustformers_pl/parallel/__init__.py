"""Parallel training: the mesh strategy, its dimensions, and ZeRO."""

import sys
from typing import TYPE_CHECKING

from trustformers_pl.lazy import exports

if TYPE_CHECKING:
    from trustformers_pl.parallel.fully_shard import FullyShard
    from trustformers_pl.parallel.mesh import Dimension, MeshStrategy, data_parallel, zero
    from trustformers_pl.parallel.partition import Partition
    from trustformers_pl.parallel.replicate import Replicate
    from trustformers_pl.parallel.zero_config import ZeROConfig
    from trustformers_pl.parallel.zero_optimizer import ZeroOptimizer

__all__ = [
    "Dimension",
    "FullyShard",
    "MeshStrategy",
    "Partition",
    "Replicate",
    "ZeROConfig",
    "ZeroOptimizer",
    "data_parallel",
    "zero",
]
__getattr__, __dir__ = exports(
    __name__,
    {
        "Dimension": "mesh",
        "FullyShard": "fully_shard",
        "MeshStrategy": "mesh",
        "Partition": "partition",
        "Replicate": "replicate",
        "ZeROConfig": "zero_config",
        "ZeroOptimizer": "zero_optimizer",
        "data_parallel": "mesh",
        "zero": "mesh",
    },
)

if "lightning.pytorch" in sys.modules:  # then `Trainer(strategy="zero_3")` works from here on
    import trustformers_pl.parallel.mesh  # noqa: F401
