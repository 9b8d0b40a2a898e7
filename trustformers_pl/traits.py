"""What one configuration of a feature needs from a run and does to it: conflicts follow from these, not from names."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING

from trustformers_pl.names import nearest

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping


class Slot(StrEnum):
    """What only one feature of a run may *claim*. Each is the answer to one hook, or the owner of one thing."""

    STEP = "step"
    """Runs the training step; sequential when nobody claims it. Hook `step`."""
    OPTIMIZER = "optimizer"
    """Makes the optimizer. Hook `optimizer`."""
    SCHEDULE = "schedule"
    """Moves the learning rate. Hook `lr_schedule`."""
    STRATEGY = "strategy"
    """Is the Lightning Strategy, instead of a mesh. Hook `strategy`."""
    DATA_PARALLEL = "data-parallel"
    """Says what ranks that see different data do with weights and gradients."""
    CHECKPOINTS = "checkpoints"
    """Saves the run, and finds where to go on. Hook `ckpt_path`."""
    PROGRAM = "program"
    """Makes many runs of the recipe instead of one training. Hook `program`."""
    DATA_BATCH = "data-batch"
    """Groups the order of samples into global batches. Hook `data`, phase `batch`."""
    DATA_SHARD = "data-shard"
    """Takes a rank's share of a global batch. Hook `data`, phase `shard`."""
    PROGRESS = "progress"
    """Draws on the terminal while the run goes on."""


class Trait(StrEnum):
    """What a feature, or the module, *provides* and others *require* or *refuse*."""

    OPTIMIZER = "optimizer"
    """The run builds the optimizer, or was given one. By `optimizer.*` and live optimizers; for schedules."""
    DECOMPOSED_LOSS = "decomposed-loss"
    """`forward(batch)` and `loss(outputs, batch) -> (sum, count)`, and a training step that goes through them. By
    modules; for loss terms and step executors."""
    SAMPLE_WEIGHTS = "sample-weights"
    """`loss` takes weights by sample. By modules; for features that weigh samples."""
    MODULE_STRUCTURE = "module-structure"
    """The `state_dict` is another than the user's. By features with such surgery, which the engine asks it of."""
    CHECKPOINTS = "checkpoints"
    """The run is saved while it trains. By whoever claims the slot of this name; for features that go back."""
    MESH = "mesh"
    """A device mesh is there. By its dimensions; refused by strategies of their own."""
    SHARDED_GRADIENTS = "sharded-gradients"
    """No rank has whole gradients when the optimizer steps. By ZeRO; refused by features that average whole ones."""
    SECOND_ORDER = "second-order-gradients"
    """The training step differentiates through gradients. By meta-learning; refused where weights are freed in the
    backward pass."""
    TASKS = "tasks"
    """The data come as one task after another, and callbacks are told where each begins and ends. By `tasks`; for
    features that keep what earlier tasks taught."""
    ROLLS_BACK = "rolls-back"
    """The run may go back to a checkpoint while it trains. By `finite` and `spikes`; refused by features that change
    what a checkpoint fits."""
    OWN_END = "own-end"
    """A feature ends the training when it is done, so that the recipe need not say how long it lasts. By `tasks`; asked
    for by the engine, which sets no end then."""
    DEFERRED_VALUES = "deferred-values"
    """The module is built on the meta device, and gets its values where they will lie. By sharding of weights; asked
    for by the engine when it builds the module."""


OF_MODULES: Mapping[str, str] = {
    Trait.DECOMPOSED_LOSS: "give the module `forward(batch)` and `loss(outputs, batch) -> (sum, count)`, "
    "and no training_step, in it or a mixin, that does not call super()",
    Trait.SAMPLE_WEIGHTS: "let the module's `loss(outputs, batch, sample_weights)` take weights (B,) or None",
}
"""Traits that modules provide, each with what the author of a module does to provide it."""

SLOTS_OF_HOOKS: Mapping[str, Slot] = {
    "program": Slot.PROGRAM,
    "step": Slot.STEP,
    "optimizer": Slot.OPTIMIZER,
    "lr_schedule": Slot.SCHEDULE,
    "strategy": Slot.STRATEGY,
    "ckpt_path": Slot.CHECKPOINTS,
}
"""Hooks with one answer, and the slot that whoever implements one must claim."""

NEEDS_OF_HOOKS: Mapping[str, Trait] = {
    "loss_terms": Trait.DECOMPOSED_LOSS,
    "step": Trait.DECOMPOSED_LOSS,
    "sample_weights": Trait.SAMPLE_WEIGHTS,
    "lr_schedule": Trait.OPTIMIZER,
}
"""Hooks that need something of the module, or of another hook: whoever implements one requires it."""

PROVISIONS_OF_HOOKS: Mapping[str, Trait] = {
    "optimizer": Trait.OPTIMIZER,
    "mesh": Trait.MESH,
    "ckpt_path": Trait.CHECKPOINTS,
}
"""Hooks whose answer is what a trait says: whoever implements one provides it."""


@dataclass(frozen=True, kw_only=True)
class Refusal:
    """A trait that a feature cannot live with.

    Attributes:
        trait: The trait, when any other feature provides it.
        reason: Why, as a clause that follows `because`.
        mend: The nearest change that would work.
    """

    trait: str
    reason: str
    mend: str


REFUSALS_OF_HOOKS: Mapping[str, Refusal] = {
    "strategy": Refusal(
        trait=Trait.MESH, reason="a run has one strategy, and a mesh is one", mend="remove one of the two sections"
    ),
}
"""Hooks that cannot live with a trait: whoever implements one refuses it."""


@dataclass(frozen=True, kw_only=True)
class Traits:
    """The declarations of one feature with one configuration.

    The words are those of `Slot` and `Trait`; packages add their own as `package:word`.

    Attributes:
        claims: Exclusive slots; two features of a run may not claim the same one.
        provides: What holds in a run with this feature.
        requires: What another feature, or the module, must provide.
        refuses: What no other feature may provide.
        after: Traits or feature names whose hooks are called before this feature's.
    """

    claims: frozenset[str] = frozenset()
    provides: frozenset[str] = frozenset()
    requires: frozenset[str] = frozenset()
    refuses: tuple[Refusal, ...] = ()
    after: frozenset[str] = frozenset()


def unknown_words(traits: Traits) -> list[str]:
    """Complaints about words that are neither of the vocabulary nor a package's own."""
    words = [(word, Slot) for word in traits.claims]
    asked = (*traits.provides, *traits.requires, *(refusal.trait for refusal in traits.refuses))
    return sorted(
        f"{str(word)!r} is no {kind.__name__.lower()}; {nearest(word, _values(kind))}, or call it `your-package:{word}`"
        for word, kind in [*words, *((word, Trait) for word in asked)]
        if ":" not in word and word not in _values(kind)
    )


def _values(kind: Iterable[StrEnum]) -> list[str]:
    return [member.value for member in kind]
