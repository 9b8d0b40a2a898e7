"""What the parts of a run keep across a resume: each state under a stable name, with a version and a scope."""

from __future__ import annotations

import logging
import re
from collections import Counter
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, cast

from trustformers_pl.compose import user_class
from trustformers_pl.errors import CheckpointError
from trustformers_pl.gathering import local, on_rank_zero, rank_and_world_size, whole
from trustformers_pl.stateful import Scope, State, Stateful

if TYPE_CHECKING:
    from lightning import Trainer

__all__ = ["Scope", "State", "Stateful", "collect", "gather", "give_back", "parts", "restore"]

logger = logging.getLogger(__name__)
_NUMBER = re.compile(r"\.\d+$")  # of the second part of a name, and those after it
_OF_ONE_RANK = (Scope.RANK, Scope.WORKER)


def parts(trainer: Trainer) -> dict[str, Stateful]:
    """The parts of a run that have state, by name: `package.Class` (for callbacks `package.state_key`), then `.2`."""
    candidates = (
        *trainer.callbacks,  # type: ignore[attr-defined]
        *trainer.loggers,
        trainer.strategy,
        trainer.precision_plugin,
        trainer.lightning_module,
        trainer.datamodule,  # type: ignore[attr-defined]
    )
    found: dict[str, Stateful] = {}
    for candidate in candidates:
        # By class: Lightning's own examples keep a dict called `state` on the instance.
        if all(callable(getattr(type(candidate), name, None)) for name in ("state", "load_state")):
            name, number = _name(candidate), 1
            while (numbered := name if number == 1 else f"{name}.{number}") in found:
                number += 1
            found[numbered] = cast("Stateful", candidate)
    return found


def _name(candidate: object) -> str:
    cls = user_class(type(candidate))
    # Without the submodule, so that a class may move inside its package.
    return f"{cls.__module__.partition('.')[0]}.{getattr(candidate, 'state_key', cls.__qualname__)}"


def collect(trainer: Trainer) -> dict[str, Any]:
    """The states of all parts of a run. Collective: every rank calls it.

    DTensors are left where they are if every rank saves (see `FolderCheckpointIO`); if not, rank zero gets them whole.

    Returns:
        Name -> scope -> `version` and `value` (a list over ranks, where each has its own). On other ranks than zero
        only the values with DTensors that were left there, by the same names.

    Raises:
        CheckpointError: A part's state is not one, or the ranks have different parts.
    """
    return gather(parts(trainer), in_place=saves_on_every_rank(trainer))


def saves_on_every_rank(trainer: Trainer) -> bool:
    """Whether the strategy calls the CheckpointIO on every rank, and that writes what each of them holds."""
    strategy = trainer.strategy
    return getattr(strategy, "saves_on_every_rank", False) and getattr(strategy.checkpoint_io, "writes_parts", False)


def restore(trainer: Trainer, stored: Mapping[str, Any]) -> None:
    """Give the parts of a run back what `collect` returned on rank zero; every rank calls it with all of it.

    Parts without stored state, and stored states without a part, are each named in one warning.

    Raises:
        CheckpointError: A state is newer than its part, or of another number of ranks; or there are more or fewer parts
            of one name than there were, so that nobody can tell whose a state is.
    """
    _refuse_other_numbers(parts(trainer), stored)
    give_back(parts(trainer), stored)


def gather(parts: Mapping[str, Stateful], *, in_place: bool = False) -> dict[str, Any]:
    """As `collect`, for named parts; with `in_place` DTensors are left where they are."""
    own = {(name, state.scope): state for name, part in parts.items() for state in _states(name, part)}
    sharded = {key: s.value for key, s in own.items() if s.scope is Scope.SHARDED}
    of_all = {key: value if in_place else whole(value, key[0]) for key, value in sharded.items()}
    of_all |= {key: local(s.value, key[0]) for key, s in own.items() if s.scope is Scope.REPLICATED}
    of_ranks = on_rank_zero({key: local(s.value, key[0]) for key, s in own.items() if s.scope in _OF_ONE_RANK})
    if rank_and_world_size()[0]:
        return {name: {scope.value: {"value": value}} for (name, scope), value in sharded.items() if in_place}
    if differing := {key for values in of_ranks for key in values.keys() ^ of_ranks[0].keys()}:
        name, scope = min(differing)
        raise CheckpointError(f"{name}: only some ranks have its {scope} state; give all ranks the same parts")
    stored: dict[str, Any] = {name: {} for name in parts}
    for (name, scope), state in own.items():
        key = (name, scope)
        value = of_all[key] if key in of_all else [values[key] for values in of_ranks]
        stored[name][scope.value] = {"version": state.version, "value": value}
    return stored


def _states(name: str, part: Stateful) -> list[State]:
    given = part.state()
    states = [_checked(name, one) for one in (given if isinstance(given, list | tuple) else [given])]
    if len({state.scope for state in states}) != len(states):
        raise CheckpointError(f"{name}: two states of one scope; put both into one value")
    return states


def _checked(name: str, given: object) -> State:
    if not isinstance(given, State) or not isinstance(given.value, Mapping):
        what = type(given.value if isinstance(given, State) else given).__name__
        raise CheckpointError(f"{name}: its state() gave {what}; give State({{...}})")
    if given.scope is Scope.WORKER and list(given.value) != list(range(len(given.value))):
        raise CheckpointError(f"{name}: its worker state has the keys {list(given.value)}; number them from 0")
    return given


def give_back(parts: Mapping[str, Stateful], stored: Mapping[str, Any], *, quiet: bool = False) -> None:
    """As `restore`, for named parts; where they are a choice, nothing is said of the others."""
    if not quiet:
        _warn("resume: the checkpoint has no state of %s; it starts anew", parts.keys() - stored.keys())
        _warn("resume: nothing in this run takes the stored state of %s; it is left out", stored.keys() - parts.keys())
    for name, part in parts.items():
        for scope, record in stored.get(name, {}).items():
            _give_back(name, part, Scope(scope), record)


def _refuse_other_numbers(parts: Mapping[str, Stateful], stored: Mapping[str, Any]) -> None:
    now, before = (Counter(_NUMBER.sub("", name) for name in names) for names in (parts, stored))
    for name in sorted(now.keys() & before.keys()):
        if now[name] != before[name]:
            raise CheckpointError(
                f"{name}: the checkpoint has states of {before[name]} parts of this name, the run has {now[name]}, "
                "and nobody can tell whose each is; use as many, or give each a `state_key` of its own"
            )


def _warn(message: str, names: set[str]) -> None:
    if names and rank_and_world_size()[0] == 0:
        logger.warning(message, ", ".join(sorted(names)))


def _give_back(name: str, part: Stateful, scope: Scope, record: Mapping[str, Any]) -> None:
    version, value = record["version"], record["value"]
    known = _known_version(name, part)
    if version > known:
        raise CheckpointError(
            f"{name}: its stored state has version {version}, the installed code reads up to {known}; "
            "update the package that it comes from"
        )
    rank, world_size = rank_and_world_size()
    if scope not in _OF_ONE_RANK:
        part.load_state(State(value, version, scope))
    elif len(value) == world_size:
        part.load_state(State(value[rank], version, scope))
    elif callable(load_all_ranks := getattr(part, "load_all_ranks", None)):
        load_all_ranks([State(one, version, scope) for one in value], rank, world_size)
    else:
        raise CheckpointError(
            f"{name}: its {scope} state is of {len(value)} ranks, this run has {world_size}; "
            f"resume with {len(value)}, or give {type(part).__name__} a method load_all_ranks"
        )


def _known_version(name: str, part: Stateful) -> int:
    declared = getattr(type(part), "state_version", None)
    return max(state.version for state in _states(name, part)) if declared is None else int(declared)
