"""The section `ddp`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from trustformers_pl.hookspecs import hookimpl
from trustformers_pl.parts import Part, part
from trustformers_pl.plugins import Plugin
from trustformers_pl.traits import Trait, Traits

if TYPE_CHECKING:
    from trustformers_pl.plan import Plan
    from trustformers_pl.run import Run

OF_BUCKETS = ("bucket_size_mb", "find_unused_parameters", "static_graph", "gradient_sync_every", "reduce_dtype")


class DDPPlugin(Plugin):
    """Data parallelism: the model on every rank, gradients averaged while the backward pass runs."""

    @dataclass(frozen=True, kw_only=True)
    class Config:
        """The `ddp` section; how many ranks there are is Lightning's `trainer.devices` and `trainer.num_nodes`."""

        replicas: int | None = None
        """Copies of the model: one a rank, or one in all where `zero` shares each copy out among ranks."""
        bucket_size_mb: int = 25
        """Mebibytes of gradients that are averaged at once, while others are still computed; torch's default."""
        gradient_sync_every: int | None = None
        """Micro-batches of an accumulation window between two averagings; by default one, at the window's end."""
        find_unused_parameters: bool = False
        """Allow parameters that a step does not use; costs a walk of the graph at each step."""
        static_graph: bool = False
        """Promise that every step uses the same parameters."""
        reduce_dtype: Literal["fp32", "bf16", "fp16"] | None = None
        """Type that gradients are sent and added up in; their own by default."""

        def __post_init__(self) -> None:
            """Refuse what torch cannot do."""
            for name in ("replicas", "bucket_size_mb", "gradient_sync_every"):
                value = getattr(self, name)
                if value is not None and value < 1:
                    raise ValueError(f"{name} must be at least 1, but is {value}")

    config: Config

    @classmethod
    def traits(cls, config: Config) -> Traits:
        """It makes a mesh."""
        del config
        return Traits(provides=frozenset({Trait.MESH}))

    @hookimpl
    def check(self, plan: Plan) -> list[str]:
        """Beside sharding, what is said of buckets would say nothing."""
        if not shards(plan):
            return []
        return [
            f"ddp.{name}: the ranks of a copy reduce gradients as its sharding does; remove it"
            for name in OF_BUCKETS
            if name in self.written()
        ]

    @hookimpl
    def mesh(self, plan: Plan) -> list[Part]:
        """The dimension of the copies: as large as the other dimensions leave it, or one beside sharding."""
        config = self.config
        if shards(plan):
            return [part("trustformers_pl.parallel:Dimension", "replicate", config.replicas or 1, data=True)]
        options: dict[str, Any] = {
            "bucket_cap_mb": config.bucket_size_mb,
            "find_unused_parameters": config.find_unused_parameters,
            "static_graph": config.static_graph,
        }
        if config.gradient_sync_every is not None:
            options["sync_every"] = config.gradient_sync_every
        if config.reduce_dtype is not None:
            options["reduce_dtype"] = config.reduce_dtype
        replicate = part("trustformers_pl.parallel:Replicate", **options)
        return [part("trustformers_pl.parallel:Dimension", "data_parallel", config.replicas, wrap=replicate)]

    @hookimpl
    def probe(self, run: Run) -> str | None:
        """The mesh that the run was on."""
        return evidence_of_mesh(run)


def shards(plan: Plan) -> bool:
    """Whether a feature shares each copy of the model out among ranks."""
    return any(Trait.SHARDED_GRADIENTS in p.traits(p.config).provides for p in plan.plugins)


def evidence_of_mesh(run: Run) -> str | None:
    """How many ranks saw different data, if anything was trained."""
    ranks = getattr(run.trainer.strategy, "data_ranks", None) if run.trainer.global_step else None
    return f"{ranks} data ranks" if ranks else None
