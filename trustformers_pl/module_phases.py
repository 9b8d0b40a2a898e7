"""A built module goes through its phases: once, in Lightning's `configure_model`, under names that stay."""

from __future__ import annotations

import random
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from trustformers_pl.data.order import counter_seed
from trustformers_pl.deferred import CannotRecordError, note_values, still_deferred
from trustformers_pl.errors import RefusedError
from trustformers_pl.phases import ModulePhase, PhaseContext
from trustformers_pl.randomness import random_state, restore_random_state
from trustformers_pl.structure import Structure

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    from torch import nn
    from torch.distributed.device_mesh import DeviceMesh

# Where a module notes which `ModulePhases` it went through.
_MARK = "_went_through"
# Phases whose transforms read and write weights; the others place and wrap them.
CHANGES_VALUES = (ModulePhase.SURGERY, ModulePhase.SPLIT, ModulePhase.MATERIALISE)


@dataclass(frozen=True)
class Transform:
    """One change of a module, and whose it is.

    Attributes:
        function: `(module, context) -> module or None`; changes the module in place.
        plugin: The feature that it belongs to, for messages.
        changes_structure: Whether it may change names or shapes in the `state_dict` (trait `module-structure`).
    """

    function: Callable[[Any, PhaseContext], Any]
    plugin: str
    changes_structure: bool = False


class ModulePhases:
    """Transforms by phase, for one module.

    A transform may replace submodules. It is seeded by (seed, phase, feature) alone, so that what it draws neither
    depends on the other features nor disturbs the run. Names of parameters after SURGERY are those of checkpoints and
    optimizer: later phases keep them, except that SPLIT may drop some.
    """

    def __init__(self, transforms: Mapping[str, Sequence[Any]], *, seed: int = 0) -> None:
        """Say what happens when.

        Args:
            transforms: Phase -> transforms in order, as `Transform`s or as their functions.
            seed: Of what transforms draw.

        Raises:
            ValueError: An unknown phase.
        """
        self.seed = seed
        by_phase = {ModulePhase(phase): [_transform(item) for item in items] for phase, items in transforms.items()}
        self.transforms = {phase: by_phase.get(phase, []) for phase in ModulePhase}

    def applied_to(self, module: nn.Module) -> bool:
        """Whether this module went through these phases."""
        return vars(module).get(_MARK) is self

    def apply(self, module: nn.Module, mesh: DeviceMesh | None = None) -> None:
        """Put a module through all phases, in place; a second call for the same module does nothing.

        Args:
            module: The LightningModule, built, on any device.
            mesh: The run's device mesh, if it has one.

        Raises:
            RefusedError: The module went through the phases of another run, or a transform breaks the rules above:
                names its feature and the parameters.
        """
        if self.applied_to(module):
            return
        if _MARK in vars(module):
            raise RefusedError(
                f"{type(module).__name__}: went through the phases of an earlier run already; give this run a new one"
            )
        self.run(module, mesh)
        setattr(module, _MARK, self)

    def run(self, module: nn.Module, mesh: DeviceMesh | None, *coordinates: str) -> None:
        """Run all phases on a module, or on what grew; `coordinates` tell draws for one part from another's."""
        for phase, transforms in self.transforms.items():
            for index, transform in enumerate(transforms):
                before = Structure.of(module)
                number = sum(other.plugin == transform.plugin for other in transforms[:index])
                who = f"{transform.plugin}: its {phase.name} transform"
                with (
                    _with_or_without_values(module, phase, who),
                    _seeded(counter_seed(self.seed, phase.value, transform.plugin, number, *coordinates)),
                ):
                    answer = transform.function(module, PhaseContext(phase, mesh, self.seed))
                if answer is not None and answer is not module:
                    raise RefusedError(
                        f"{who} returns another {type(answer).__name__} in place of {type(module).__name__}; "
                        "replace its submodules instead"
                    )
                before.check(Structure.of(module), phase, who, may_change=transform.changes_structure)


class PhasedModule:
    """Mixin that puts a LightningModule through `module_phases` when Lightning configures the model.

    Works in a stock `lightning.Trainer`: `class MyPhased(PhasedModule, MyModule)`, then
    `module.module_phases = ModulePhases({"surgery": [...]})`.
    """

    module_phases: ModulePhases | None = None

    if TYPE_CHECKING:  # given by LightningModule
        device_mesh: DeviceMesh | None

    def configure_model(self) -> None:
        """The module's own `configure_model`, then the phases, once.

        Raises:
            RefusedError: As `ModulePhases.apply` does.
        """
        super().configure_model()  # type: ignore[misc]
        if self.module_phases is not None:
            self.module_phases.apply(self, self.device_mesh)  # type: ignore[arg-type]


def _transform(item: Any) -> Transform:
    if isinstance(item, Transform):
        return item
    return Transform(item, getattr(item, "__name__", type(item).__name__), changes_structure=True)


@contextmanager
def _with_or_without_values(module: nn.Module, phase: ModulePhase, who: str) -> Iterator[None]:
    """Let a transform change weights that get their values later, by a strategy that shards them before.

    Raises:
        RefusedError: It can only change them when they have values.
    """
    if phase not in CHANGES_VALUES:
        yield
        note_values(module)
        return
    try:
        with still_deferred(module):
            yield
    except CannotRecordError as error:
        raise RefusedError(
            f"{who} needs the values of weights, which are made after this run shards them: {error}; use torch's "
            "operators in it, or a strategy that does not shard weights"
        ) from error


@contextmanager
def _seeded(seed: int) -> Iterator[None]:
    state = random_state()
    torch.manual_seed(seed)
    np.random.seed(seed & 0xFFFF_FFFF)
    random.seed(seed)
    try:
        yield
    finally:
        restore_random_state(state)
