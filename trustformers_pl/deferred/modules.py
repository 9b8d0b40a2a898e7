"""Which value belongs under which name of a module, kept on the module that has the name."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from torch import Tensor
from torch.distributed.tensor import DTensor

if TYPE_CHECKING:
    from collections.abc import Iterator

    from torch import nn

    from trustformers_pl.deferred.record import Record, View

KEY = "_deferred_values"
REGISTERED = ("_parameters", "_buffers")
DEPTH = 4  # of lists and dicts within each other
Path = tuple[Any, ...]


@dataclass(frozen=True)
class Entry:
    """What stands under one name of a module.

    Attributes:
        tensor: The very tensor, when it was noted; equal ones are tied.
        value: Its value, where it has one: the memory that it had, as `to_empty` gives a tensor another.
        record: Where its value is recorded, if not.
        view: What it is in the record.
    """

    tensor: Tensor
    value: Tensor | None = None
    record: Record | None = None
    view: View | None = None

    def __deepcopy__(self, memo: dict[int, Any]) -> Entry:
        del memo
        return self


def note_values(module: nn.Module, record: Record | None = None) -> None:
    """Note what now stands under each name of a module, so that `fill` finds it again once the tensors are others.

    Call it after a deferred module was changed (layers replaced, added) and before its tensors are, by `to_empty`. A
    tensor that has its value is kept as it is.

    Args:
        module: Any; one without deferred values is left alone.
        record: Where they are recorded, if not in the modules.
    """
    records = {id(entry.record): entry.record for entry in _entries(module) if entry.record is not None}
    if record is not None:
        records[id(record)] = record
    if not records:
        return
    registered = {id(tensor) for tensor in (*module.parameters(), *module.buffers())}
    for one in module.modules():
        known = one.__dict__.get(KEY, {})
        found = {path: _entry(t, list(records.values()), known.get(path)) for path, t in _tensors(one, registered)}
        one.__dict__[KEY] = {path: entry for path, entry in found.items() if entry is not None}


def deferred_record(module: nn.Module) -> Record | None:
    """The record that values of a module, or of its submodules, are to be made from; None if they are all there."""
    return next((entry.record for entry in _entries(module) if entry.record is not None), None)


def forget_values(module: nn.Module) -> None:
    """Drop what was noted."""
    for one in module.modules():
        one.__dict__.pop(KEY, None)


def held(one: nn.Module, path: Path) -> Any:
    """What stands under a path: `(attribute, ...)` with the keys and positions within dicts and lists."""
    found: Any = vars(one)
    for key in path:
        try:
            found = found[key]
        except (KeyError, IndexError, TypeError):
            return None
    return found


def _entries(module: nn.Module) -> Iterator[Entry]:
    for one in module.modules():
        yield from one.__dict__.get(KEY, {}).values()


def _entry(tensor: Tensor, records: list[Record], known: Entry | None) -> Entry | None:
    if isinstance(tensor, DTensor):  # sharded since it was noted: its whole value is the one that was noted
        return known
    if not tensor.is_meta:
        return Entry(tensor, tensor.detach())
    views = ((record, record.view(tensor)) for record in records)
    found = next((Entry(tensor, None, record, view) for record, view in views if view is not None), None)
    # One that is not in a record was converted since, as by `half()`; its value will be too.
    return known if found is None and known is not None and known.tensor.shape == tensor.shape else found


def _tensors(one: nn.Module, registered: set[int]) -> Iterator[tuple[Path, Tensor]]:
    """A module's own parameters, buffers and other tensors, also those within lists and dicts, with their paths."""
    for kind in REGISTERED:
        yield from (((kind, name), tensor) for name, tensor in vars(one)[kind].items() if tensor is not None)
    for name, value in vars(one).items():
        if name not in (KEY, "_modules", *REGISTERED) and not name.endswith("_hooks"):
            yield from ((path, tensor) for path, tensor in _within(value, (name,)) if id(tensor) not in registered)


def _within(value: Any, path: Path) -> Iterator[tuple[Path, Tensor]]:
    if isinstance(value, Tensor):
        yield path, value
    elif isinstance(value, (dict, list)) and len(path) < DEPTH:
        for key, item in value.items() if isinstance(value, dict) else enumerate(value):
            yield from _within(item, (*path, key))
