"""The phases in which features change the module and the data: their order, and who declared what for which."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING, Any

from trustformers_pl.answers import answers
from trustformers_pl.errors import PluginError, RefusedError
from trustformers_pl.parts import Part, part
from trustformers_pl.traits import Slot, Trait

if TYPE_CHECKING:
    from torch.distributed.device_mesh import DeviceMesh

    from trustformers_pl.plan import Plan


class ModulePhase(StrEnum):
    """What happens to a built module, in this order, before its optimizer is made."""

    SURGERY = "surgery"
    """Other layers: LoRA, quantization-aware training, heads, columns. The only phase that may add parameters."""
    SPLIT = "split"
    """Pipeline stages: a rank keeps its part. May drop parameters."""
    TENSOR_PARALLEL = "tensor_parallel"
    """Single layers are split over ranks."""
    ACTIVATION_CHECKPOINTING = "activation_checkpointing"
    """Blocks are wrapped so that their activations are computed again in the backward pass."""
    COMPILE = "compile"
    """`torch.compile`, of blocks or of the whole module."""
    SHARD = "shard"
    """Data-parallel sharding of parameters."""
    MATERIALISE = "materialise"
    """Values for parameters on the meta device."""


class DataPhase(StrEnum):
    """What happens between a dataset and a rank's batch, in this order."""

    SOURCE = "source"
    """`(dataset) -> dataset`."""
    ORDER = "order"
    """`(indices, epoch, seed) -> indices`, (N,) int64 to (M,) int64: each gets the one before's answer.

    One with a method `prepare(dataset, batch)` is told before that which dataset has the indices, and how many samples
    `batch()` a global batch has."""
    BATCH = "batch"
    """`(indices, batch_size, epoch, seed) -> list of indices`: the global batches. One owner: claim `data-batch`."""
    MIX = "mix"
    """`(batch, epoch, step, seed) -> batch`, on a rank's collated batch; `step` counts the epoch's batches from 0."""
    SHARD = "shard"
    """`(indices, rank, ranks) -> indices`: a rank's share of a global batch. One owner: claim `data-shard`."""


EXCLUSIVE: dict[StrEnum, str] = {DataPhase.BATCH: Slot.DATA_BATCH, DataPhase.SHARD: Slot.DATA_SHARD}


@dataclass(frozen=True)
class PhaseContext:
    """What a transform of the module is told.

    Attributes:
        phase: The phase that it runs in.
        mesh: The run's device mesh, or None where the strategy has none.
        seed: The run's seed. The global generators are seeded from it for each transform, and put back afterwards.
    """

    phase: ModulePhase
    mesh: DeviceMesh | None
    seed: int


def module_phases(plan: Plan) -> Part | None:
    """The `ModulePhases` that the plugins declare; None where there are none.

    Raises:
        PluginError: A plugin answers with one transform in two phases.
    """
    structural = {p.name for p in plan.plugins if Trait.MODULE_STRUCTURE in p.traits(p.config).provides}
    by_phase: dict[str, list[Part]] = {}
    for phase, plugin, item in _declared(plan, "modify_module", ModulePhase):
        keywords: dict[str, Any] = {"changes_structure": True} if plugin in structural else {}
        transform = part("trustformers_pl.module_phases:Transform", item, plugin=plugin, **keywords)
        by_phase.setdefault(phase.value, []).append(transform)
    return part("trustformers_pl.module_phases:ModulePhases", by_phase, seed=plan.seed) if by_phase else None


def data_phases(plan: Plan) -> dict[str, list[Any]]:
    """What the plugins declare for the data, by phase.

    Raises:
        PluginError: A plugin answers with one transform in two phases, or in an exclusive phase that it does not claim.
        RefusedError: One plugin answers twice in an exclusive phase.
    """
    claims = {p.name: p.traits(p.config).claims for p in plan.plugins}
    by_phase: dict[str, list[Any]] = {}
    for phase, plugin, item in _declared(plan, "data", DataPhase):
        slot = EXCLUSIVE.get(phase)
        if slot and slot not in claims[plugin]:
            raise PluginError(
                f"plugin {plugin!r} answers data({phase.name}) without claiming {str(slot)!r} in its traits"
            )
        by_phase.setdefault(phase.value, []).append(item)
        if slot and len(by_phase[phase.value]) > 1:
            raise RefusedError(f"{plan.place(plugin)}: {plugin} gives two answers to data({phase.name}); give one")
    return by_phase


def _declared(plan: Plan, hook: str, phases: type[StrEnum]) -> list[tuple[StrEnum, str, Any]]:
    """(phase, plugin, transform), by phase and in plugin order within one."""
    found: list[tuple[StrEnum, str, Any]] = []
    phase_of: dict[tuple[str, str], StrEnum] = {}
    for phase in phases:
        for answer in answers(plan, hook, phase=phase):
            earlier = phase_of.setdefault((answer.plugin, repr(answer.item)), phase)
            if earlier is not phase:
                raise PluginError(
                    f"plugin {answer.plugin!r} answers {hook} with the same transform in {earlier.name} and "
                    f"{phase.name}; answer in one phase and return None in the others"
                )
            found.append((phase, answer.plugin, answer.item))
    return found
