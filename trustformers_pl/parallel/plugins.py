"""The section `ddp`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from trustformers_pl.hookspecs import hookimpl
from trustformers_pl.parts import Part, part
from trustformers_pl.plugins import Plugin
from trustformers_pl.traits import Slot, Trait, Traits

if TYPE_CHECKING:
    from trustformers_pl.plan import Plan
    from trustformers_pl.run import Run


class DDPPlugin(Plugin):
    """Data parallelism: the model on every rank, gradients averaged while the backward pass runs."""

    @dataclass(frozen=True, kw_only=True)
    class Config:
        """The `ddp` section; how many ranks there are is Lightning's `trainer.devices` and `trainer.num_nodes`."""

        bucket_size_mb: int = 25
        """Mebibytes of gradients that are averaged at once, while others are still computed; torch's default."""
        find_unused_parameters: bool = False
        """Allow parameters that a step does not use; costs a walk of the graph at each step."""
        static_graph: bool = False
        """Promise that every step uses the same parameters."""

        def __post_init__(self) -> None:
            """Refuse what torch cannot do."""
            if self.bucket_size_mb < 1:
                raise ValueError(f"bucket_size_mb must be at least 1, but is {self.bucket_size_mb}")

    config: Config

    @classmethod
    def traits(cls, config: Config) -> Traits:
        """It says what the ranks that see different data do."""
        del config
        return Traits(claims=frozenset({Slot.DATA_PARALLEL}), provides=frozenset({Trait.MESH}))

    @hookimpl
    def mesh(self, plan: Plan) -> list[Part]:
        """The dimension `data_parallel`, as large as the other dimensions leave it."""
        del plan
        config = self.config
        replicate = part(
            "trustformers_pl.parallel:Replicate",
            bucket_cap_mb=config.bucket_size_mb,
            find_unused_parameters=config.find_unused_parameters,
            static_graph=config.static_graph,
        )
        return [part("trustformers_pl.parallel:Dimension", "data_parallel", wrap=replicate)]

    @hookimpl
    def probe(self, run: Run) -> str | None:
        """The mesh that the run was on."""
        ranks = getattr(run.trainer.strategy, "data_ranks", None) if run.trainer.global_step else None
        return f"{ranks} data ranks" if ranks else None
