"""The contract of parts with state: what they keep across a resume, its version, and whose it is."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence


class Scope(StrEnum):
    """Whose a state is when there are several ranks.

    `REPLICATED`: equal on all ranks; rank zero's is kept. `SHARDED`: leaves may be DTensors; they are kept so that any
    number of ranks can go on with them, and given back on every rank as whole tensors or as `Pieces`: lay them out with
    `trustformers_pl.gathering.place_like`, which takes both. `RANK`: one a rank. `WORKER`: one a rank as well, and in
    it one a dataloader worker: a mapping from the worker's number, from 0, to its state.
    """

    REPLICATED = "replicated"
    SHARDED = "sharded"
    RANK = "rank"
    WORKER = "worker"


@dataclass(frozen=True)
class State:
    """What a part keeps.

    Attributes:
        value: Tensors of any shape and plain values, in nested dicts, lists and tuples.
        version: Of the value's layout; raise it when older code could not read it.
        scope: Whose it is.
    """

    value: Mapping[Any, Any]
    version: int = 1
    scope: Scope = Scope.REPLICATED


class Stateful(Protocol):
    """A part with state: any callback, logger, strategy, precision plugin, LightningModule or LightningDataModule.

    `state` is called on every rank, at step boundaries and once before training. `load_state` is called before
    `on_train_start`, when the strategy has set up the model; with another version than today's it migrates. A version
    above `state_version` (a class attribute; without it, the version that `state()` gives) is refused. A state of scope
    `RANK` or `WORKER` is refused on another number of ranks, unless the part has
    `load_all_ranks(states, rank, world_size)`, which is then called on each rank with the states of all old ranks.
    """

    def state(self) -> State | Sequence[State]:
        """The state, or at most one of each scope."""

    def load_state(self, state: State) -> None:
        """Take over one stored state; called once for each scope."""
