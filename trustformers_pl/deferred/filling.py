"""Values for the tensors of a deferred module, made one after another and written to where each now lies."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.distributed.tensor import DTensor

from trustformers_pl.deferred.modules import KEY, REGISTERED, Entry, Path, forget_values, held
from trustformers_pl.deferred.placing import Source, Whole, part, place, put_in_place_of, refuse_other_shape
from trustformers_pl.deferred.replay import Base, Values, generator_put_back
from trustformers_pl.errors import RefusedError

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from trustformers_pl.deferred.record import Record

SHOWN = 3


@dataclass(frozen=True)
class Place:
    """Where a value belongs.

    Attributes:
        owner: The module that has the tensor.
        path: What it has it under.
        name: The same with all modules above, for messages.
        entry: What was noted.
        source: Where the value is read from instead of the record, or None.
    """

    owner: nn.Module
    path: Path
    name: str
    entry: Entry
    source: Source | None = None

    @property
    def registered(self) -> bool:
        """Whether it is a parameter or a buffer."""
        return self.path[0] in REGISTERED

    @property
    def tensor(self) -> Any:
        """What now stands there, or None."""
        return held(self.owner, self.path)


@dataclass(frozen=True)
class Recorded:
    """A value that is recorded, as the source of another module's tensor.

    Attributes:
        entry: Where.
    """

    entry: Entry

    @classmethod
    def of(cls, tensor: Tensor, record: Record) -> Recorded:
        """The value of a tensor in a record."""
        return cls(Entry(tensor, None, record, record.view(tensor)))

    def read(self, region: Mapping[int, Tensor]) -> Tensor:
        """Make the whole value; returns a part of it."""
        assert self.entry.record is not None
        assert self.entry.view is not None
        values = Values(self.entry.record)
        with torch.no_grad(), generator_put_back():
            values.make(self.entry.view.storage)
        return part(values.tensor(self.entry.view), region)


def fill(module: nn.Module, *, checkpoint_follows: bool | None = None) -> int:
    """Give the tensors of a deferred module their values, with the bits of ordinary construction.

    A tensor that is still without memory gets it on the CPU. Others, as after `module.to_empty(device=...)`, are
    written to: as a whole; of a DTensor, the part on this rank. No more values are made at a time than one tensor
    needs.

    Args:
        module: Built by `deferred`, perhaps sharded since; one with all its values is left alone.
        checkpoint_follows: Whether the values in the `state_dict` will be loaded next, so that they need not be made.
            By default, what the module's attribute of that name says.

    Returns:
        The most bytes that values which were being made took at one time.

    Raises:
        RefusedError: A tensor has another shape than the one that was noted, or no value was noted for it.
    """
    if checkpoint_follows is None:
        checkpoint_follows = getattr(module, "checkpoint_follows", False) and getattr(module, "strict_loading", True)
    brought = frozenset(module.state_dict()) if checkpoint_follows else frozenset()
    sources = [] if checkpoint_follows else _sources(module)
    places = list(_places(module, {(id(owner), name): source for owner, name, source in sources}))
    if not places:
        return 0
    done: dict[int, Tensor] = {}
    with torch.no_grad(), generator_put_back():
        most = max(_fill_together(group, brought, _bases(sources), done) for group in _by_storage(places))
    _tie_again(places)
    _refuse_left_over(module)
    forget_values(module)
    return most


def give_attributes_their_values(module: nn.Module) -> None:
    """Do so for tensors that are neither parameters nor buffers: no one who moves or shards a module knows of them."""
    for one in module.modules():
        for path, entry in one.__dict__.get(KEY, {}).items():
            if entry.record is not None and path[0] not in REGISTERED:
                holder = held(one, path[:-1])
                value = Recorded(entry).read({}).requires_grad_(entry.tensor.requires_grad)
                holder[path[-1]], one.__dict__[KEY][path] = value, Entry(value, value.detach())


def _places(module: nn.Module, sources: Mapping[tuple[int, str], Source]) -> Iterator[Place]:
    for prefix, one in module.named_modules():
        entries = one.__dict__.get(KEY, {})
        own = {("_parameters", name) for name in one._parameters} | {("_buffers", name) for name in one._buffers}
        for path in [*entries, *sorted(own - entries.keys())]:
            source = sources.get((id(one), path[-1])) if path[0] in REGISTERED else None
            tensor = held(one, path)
            if isinstance(tensor, Tensor) and (source is not None or path in entries):
                entry = entries.get(path, Entry(tensor))
                yield Place(one, path, ".".join([prefix] * bool(prefix) + [str(path[-1])]), entry, source)


def _sources(module: nn.Module) -> list[tuple[nn.Module, str, Source]]:
    """What modules read from elsewhere: those that have `value_sources() -> [(owner, name in it, Source)]`."""
    lists = [one.value_sources() for one in module.modules() if callable(getattr(one, "value_sources", None))]  # type: ignore[operator]
    return [item for found in lists for item in found]


def _bases(sources: list[tuple[nn.Module, str, Source]]) -> dict[int, dict[int, Base]]:
    """By the `id` of a record: storages that are read from elsewhere, also of modules that were replaced since."""
    found: dict[int, dict[int, Base]] = {}
    for owner, name, source in sources:
        for kind in REGISTERED:
            entry = owner.__dict__.get(KEY, {}).get((kind, name))
            if entry is not None and entry.view is not None:
                found.setdefault(id(entry.record), {})[entry.view.storage] = entry.view, source
    return found


def _by_storage(places: list[Place]) -> list[list[Place]]:
    """Places whose values share memory, together; those that need nothing to be made, alone."""
    groups: dict[Any, list[Place]] = {}
    for one in places:
        view = one.entry.view
        key = id(one) if view is None or one.source is not None else (id(one.entry.record), view.storage)
        groups.setdefault(key, []).append(one)
    return list(groups.values())


def _fill_together(
    group: list[Place], brought: frozenset[str], bases: dict[int, dict[int, Base]], done: dict[int, Tensor]
) -> int:
    """Fill places whose values share memory; returns the most bytes that making them took at one time."""
    only_space = all(one.registered and one.name in brought for one in group)
    record, view = group[0].entry.record, group[0].entry.view
    values = None
    if record is not None and view is not None and not (group[0].source and record.is_as_built(view.storage)):
        values = Values(record, bases.get(id(record)))
        if not only_space:
            values.make(view.storage)
    for one in group:
        tensor = one.tensor
        if id(tensor) not in done:
            _fill_one(one, values, only_space)
            tensor = one.tensor
            done[id(tensor)] = tensor
    return 0 if values is None else values.most


def _fill_one(one: Place, values: Values | None, only_space: bool) -> None:
    tensor, entry = one.tensor, one.entry
    if only_space and not tensor.is_meta:
        return
    if values is not None and entry.view is not None:
        source: Source = Whole(values.tensor(entry.view))
    elif one.source is not None:
        source = one.source
    elif entry.value is None or entry.value.data_ptr() == tensor.data_ptr():
        return
    else:
        source = Whole(entry.value)
    if tensor.is_meta:
        _give_memory(one, tensor, source)
    else:
        place(tensor, source, one.name)


def _give_memory(one: Place, tensor: Tensor, source: Source) -> None:
    if isinstance(tensor, DTensor):
        raise RefusedError(f"{one.name}: has no memory for this rank's part; call module.to_empty(device=...) before")
    value = source.read({}).detach().to(tensor.dtype)
    refuse_other_shape(one.name, tensor, value)
    put_in_place_of(tensor, value, one.owner, one.path[-1])


def _tie_again(places: list[Place]) -> None:
    """Let parameters that were one be one again: `to_empty` makes two of them."""
    first: dict[int, Any] = {}
    for one in places:
        tensor = one.tensor
        if one.path[0] == "_parameters" and isinstance(tensor, nn.Parameter) and not isinstance(tensor, DTensor):
            same = first.setdefault(id(one.entry.tensor), tensor)
            if (same.shape, same.dtype, same.device) == (tensor.shape, tensor.dtype, tensor.device):
                one.owner._parameters[one.path[-1]] = same


def _refuse_left_over(module: nn.Module) -> None:
    left = [name for name, tensor in (*module.named_parameters(), *module.named_buffers()) if tensor.is_meta]
    if left:
        more = f" and {len(left) - SHOWN} more" if len(left) > SHOWN else ""
        raise RefusedError(
            f"{type(module).__name__}: nothing says which values {', '.join(left[:SHOWN])}{more} should have; build "
            "what was added to the module within deferred(), or on a device with memory"
        )
