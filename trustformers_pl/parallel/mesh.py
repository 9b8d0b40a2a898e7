"""The mesh strategy of the core, under the name that users rely on, and its usual dimensions."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from lightning.pytorch.strategies import StrategyRegistry

from trustformers_pl import mesh_strategy
from trustformers_pl.mesh import DATA, Dimension
from trustformers_pl.parallel.replicate import Replicate
from trustformers_pl.parallel.zero_config import SHARD, ZeROConfig
from trustformers_pl.parts import build

if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = ["Dimension", "MeshStrategy", "data_parallel", "register", "zero"]


class MeshStrategy(mesh_strategy.MeshStrategy):
    """The strategy for every parallel run; in a stock Trainer: `Trainer(strategy=MeshStrategy(zero(3)))`.

    Where the Trainer has one of Lightning's own Precisions, an `OrderedPrecision` of the same type takes its place.
    """

    def __init__(
        self, dimensions: Sequence[Dimension] | Dimension | None = None, process_group_backend: str | None = None
    ) -> None:
        """Say what the ranks do.

        Args:
            dimensions: Outer ones first, or a single one; data parallelism if not given.
            process_group_backend: As torch knows it; found from the device if not given.
        """
        given = data_parallel() if dimensions is None else dimensions
        super().__init__([given] if isinstance(given, Dimension) else given, process_group_backend)


def data_parallel(replicas: int | None = None, **options: Any) -> Dimension:
    """The dimension of data parallelism.

    Args:
        replicas: Copies of the model; all ranks that other dimensions leave if not given.
        **options: As of `Replicate`.
    """
    return Dimension(DATA, replicas, Replicate(**options))


def zero(stage: int = 3, ranks: int | None = None, **options: Any) -> Dimension:
    """The dimension along which ZeRO shards.

    Args:
        stage: 1, 2 or 3.
        ranks: That share one copy of the weights; all that other dimensions leave if not given.
        **options: As of `ZeROConfig`.

    Raises:
        ValueError: Options that do not go together, or not with this stage.
    """
    config = ZeROConfig(stage=stage, ranks=ranks, **options)  # type: ignore[arg-type]
    return Dimension(SHARD, ranks, build(config.wrap(), {}), data=True)


def register() -> None:
    """Let a Trainer take this package's strategies by name: `ddp_mesh`, `zero_1`, `zero_2` and `zero_3`."""
    named = {"ddp_mesh": data_parallel, "zero_1": _stage(1), "zero_2": _stage(2), "zero_3": _stage(3)}
    for name, dimension in named.items():
        StrategyRegistry.register(name, _made(dimension), description=f"trustformers_pl: {name}", override=True)


def _stage(stage: int) -> Any:
    return lambda: zero(stage)


def _made(dimension: Any) -> Any:
    return lambda: MeshStrategy(dimension())


register()
