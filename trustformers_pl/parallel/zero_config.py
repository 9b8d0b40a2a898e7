"""What a user says about ZeRO, and what that makes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from trustformers_pl.parts import Part, part

if TYPE_CHECKING:
    from collections.abc import Iterator

SHARD = "shard"
BUCKET_SIZE_MB = 25


@dataclass(frozen=True, kw_only=True)
class ZeROConfig:
    """The `zero` section; how many ranks there are is Lightning's `trainer.devices` and `trainer.num_nodes`."""

    stage: Literal[1, 2, 3] = 1
    """What is shared out among the ranks: 1 the optimizer's state, 2 gradients too, 3 weights too."""
    ranks: int | None = None
    """Ranks that share one copy of the model; all of them, unless `ddp.replicas` asks for several copies."""
    offload_optimizer: bool = False
    """Keep what the optimizer trains, and its state, in host memory, and step there."""
    offload_params: bool = False
    """Keep weights, gradients and optimizer state in host memory, and weights on the device while they compute; stage
    3."""
    cpu_offload: bool = False
    """All that the stage can offload: the optimizer, and at stage 3 the weights."""
    partition_gradients: bool | None = None
    """Whether gradients are shared out: what stage 2 adds to stage 1. Only to say so."""
    contiguous_gradients: bool = True
    """Gradients are copied into one buffer a bucket as they come. There is no other way here."""
    overlap_comm: bool = True
    """Reduce gradients while the backward pass computes others."""
    reduce_scatter: bool = True
    """Send each rank the sum of its own shard; false sends all sums to all, half as much again in a step. Gloo always
    does the latter; stages 1 and 2."""
    bucket_size_mb: int | None = None
    """Mebibytes of gradients reduced, or weights gathered, at once; 25 by default. At stage 3 a unit is a bucket."""
    reduce_dtype: Literal["fp32", "bf16", "fp16"] | None = None
    """Type that gradients are added up in; that of the weights by default."""
    units: tuple[str, ...] = ()
    """Names of classes whose modules are gathered and freed as one; the items of `ModuleList`s by default; stage 3."""
    reshard_after_forward: bool = True
    """Free weights between forward and backward pass, and gather them twice; stage 3."""

    def __post_init__(self) -> None:
        """Refuse what would do nothing, with what does it today."""
        problems = list(self._problems())
        if problems:
            raise ValueError(problems[0])

    def _problems(self) -> Iterator[str]:
        if self.stage not in (1, 2, 3):
            yield f"stage must be 1, 2 or 3, not {self.stage!r}"
        if self.ranks is not None and self.ranks < 1:
            yield f"ranks must be at least 1, but is {self.ranks}"
        if self.bucket_size_mb is not None and self.bucket_size_mb < 1:
            yield f"bucket_size_mb must be at least 1, but is {self.bucket_size_mb}"
        if self.partition_gradients is not None and self.partition_gradients is not (self.stage >= 2):
            said, meant = _yaml(self.partition_gradients), 1 if self.stage >= 2 else 2
            yield f"partition_gradients: {said} is stage {meant}, not {self.stage}"
        if not self.contiguous_gradients:
            yield "contiguous_gradients: false has no counterpart: a collective takes one buffer; leave it out"
        yield from self._of_stage_three() if self.stage == 3 else self._of_the_others()

    def _of_stage_three(self) -> Iterator[str]:
        if not self.overlap_comm:
            yield "overlap_comm: false is for stages 1 and 2: torch's FSDP2, which is stage 3, always overlaps"
        if not self.reduce_scatter:
            yield "reduce_scatter: false is for stages 1 and 2: at stage 3 no rank has room for whole gradients"
        if self.bucket_size_mb is not None:
            yield "bucket_size_mb is for stages 1 and 2: stage 3 gathers and reduces unit by unit; choose `units`"

    def _of_the_others(self) -> Iterator[str]:
        if self.offload_params:
            yield (
                f"offload_params needs stage 3: at stage {self.stage} every rank computes with whole weights; use "
                "offload_optimizer"
            )
        if self.units:
            yield f"units are of stage 3: stage {self.stage} keeps weights whole"
        if not self.reshard_after_forward:
            yield f"reshard_after_forward is of stage 3: stage {self.stage} keeps weights whole"

    @property
    def offloads(self) -> tuple[str, ...]:
        """What lies in host memory."""
        optimizer = ("optimizer",) if self.offload_optimizer or self.cpu_offload else ()
        weights = ("weights",) if self.offload_params or (self.cpu_offload and self.stage == 3) else ()
        return (*optimizer, *weights)

    def wrap(self) -> Part:
        """What does it, as a part."""
        options: dict[str, Any] = {"offload_optimizer": "optimizer" in self.offloads}
        if self.reduce_dtype is not None:
            options["reduce_dtype"] = self.reduce_dtype
        if self.stage == 3:
            return part(
                "trustformers_pl.parallel:FullyShard",
                units=self.units,
                reshard_after_forward=self.reshard_after_forward,
                offload_params="weights" in self.offloads,
                **options,
            )
        return part(
            "trustformers_pl.parallel:Partition",
            self.stage,
            bucket_size_mb=self.bucket_size_mb or BUCKET_SIZE_MB,
            overlap=self.overlap_comm,
            reduce_scatter=self.reduce_scatter,
            **options,
        )


def _yaml(value: bool) -> str:
    return "true" if value else "false"
