"""What happened to tensors without memory, in order: enough to make any of their values again."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import torch

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

    from torch import Tensor, UntypedStorage

# Functions that write all of their first argument and read nothing of it.
OVERWRITING = frozenset(
    getattr(torch.ops.aten, name)
    for name in (
        *("zero_", "fill_", "copy_", "normal_", "uniform_", "random_", "exponential_", "cauchy_", "log_normal_"),
        *("geometric_", "bernoulli_"),
    )
)


@dataclass(frozen=True)
class View:
    """A tensor as a view of a numbered storage.

    Attributes:
        storage: Its number in the record.
        dtype: Of the elements.
        offset: Of the first element in the storage, in elements.
        size: The shape.
        stride: Of each dimension, in elements.
    """

    storage: int
    dtype: torch.dtype
    offset: int
    size: tuple[int, ...]
    stride: tuple[int, ...]

    @property
    def numel(self) -> int:
        """The number of elements."""
        return torch.Size(self.size).numel()

    def of(self, storage: UntypedStorage) -> Tensor:
        """The tensor that views this storage."""
        empty = torch.empty(0, dtype=self.dtype, device=storage.device)
        return empty.set_(storage, self.offset, self.size, self.stride)


@dataclass(frozen=True)
class Operation:
    """One call that gave tensors their values.

    Attributes:
        function: An ATen operator.
        arguments: Positional and keyword arguments; a `View` stands for a tensor.
        reads: The tensors among them whose values it needs, besides those that it changes.
        writes: Those that it changes in place.
        makes: Position among the tensors that it returns -> the view that this one is, of a storage of its own.
        generator: State of the random generator before the call, or None if it draws nothing.
    """

    function: Any
    arguments: tuple[tuple[Any, ...], dict[str, Any]]
    reads: tuple[View, ...]
    writes: tuple[View, ...]
    makes: dict[int, View]
    generator: Tensor | None

    @property
    def outcome(self) -> list[int]:
        """The storages that have another value after it."""
        return [view.storage for view in (*self.makes.values(), *self.writes)]

    @property
    def made(self) -> set[int]:
        """The storages that begin with this call."""
        return {view.storage for view in self.makes.values()}

    @property
    def overwrites(self) -> bool:
        """Whether nothing of what it changes is read."""
        return self.function.overloadpacket in OVERWRITING or "out" in self.arguments[1]


@dataclass
class Record:
    """All operations of one construction.

    Attributes:
        operations: In the order in which they happened.
        sizes: Bytes of each storage.
        constants: Storages whose values were there, such as those made from Python numbers.
        writers: Storage -> positions of the operations that make or change it.
        built: How many operations are those of the construction; the others changed the module afterwards.
    """

    operations: list[Operation] = field(default_factory=list)
    sizes: list[int] = field(default_factory=list)
    constants: dict[int, UntypedStorage] = field(default_factory=dict)
    writers: dict[int, list[int]] = field(default_factory=dict)
    built: int = 0
    _numbers: dict[int, int] = field(default_factory=dict)
    _held: list[UntypedStorage] = field(default_factory=list)  # so that no address is used again

    def __deepcopy__(self, memo: dict[int, Any]) -> Record:
        del memo
        return self  # nothing in it changes once it is made, and copies of a module have the same values

    def view(self, tensor: Tensor) -> View | None:
        """What a tensor is in this record, or None if it is not known."""
        number = self._numbers.get(tensor.untyped_storage()._cdata)
        if number is None:
            return None
        return View(number, tensor.dtype, int(tensor.storage_offset()), tuple(tensor.shape), tensor.stride())

    def add_storage(self, tensor: Tensor) -> int:
        """Give a tensor's storage a number."""
        storage = tensor.untyped_storage()
        self._held.append(storage)
        self._numbers[storage._cdata] = number = len(self.sizes)
        self.sizes.append(storage.nbytes())
        return number

    def was_resized(self, number: int) -> bool:
        """Whether a storage has another number of bytes than when it was added."""
        return self._held[number].nbytes() != self.sizes[number]

    def is_as_built(self, number: int) -> bool:
        """Whether nothing has changed a storage since the construction."""
        return max(self.writers.get(number, ()), default=-1) < self.built

    def add(self, operation: Operation) -> int:
        """Append an operation; returns its position."""
        position = len(self.operations)
        self.operations.append(operation)
        for number in dict.fromkeys(operation.outcome):
            self.writers.setdefault(number, []).append(position)
        return position

    def covers(self, view: View) -> bool:
        """Whether a view has every byte of its storage, each once."""
        dense, expected = True, 1
        for size, stride in sorted(zip(view.size, view.stride, strict=True), key=lambda pair: pair[1]):
            dense &= size == 1 or stride == expected
            expected *= size
        return dense and view.offset == 0 and view.numel * view.dtype.itemsize == self.sizes[view.storage]

    def begins(self, position: int, number: int) -> bool:
        """Whether an operation leaves nothing in a storage of what was there before."""
        operation = self.operations[position]
        if number in operation.made:
            return True
        written = [view for view in operation.writes if view.storage == number]
        source = {view.storage for view in operation.reads}
        return operation.overwrites and number not in source and any(self.covers(view) for view in written)

    def needed(self, numbers: Iterable[int], since: Mapping[int, int] | None = None) -> Slice:
        """What has to be done for the present values of some storages; draws that were overwritten are not in it.

        Args:
            numbers: The storages.
            since: Those whose values are at hand, each with the position from which on changes are not in it yet.
        """
        since = since or {}
        chosen: set[int] = set()
        looked_at: dict[int, list[tuple[int, int]]] = {}
        asked = [(number, len(self.operations)) for number in numbers]
        while asked:
            number, before = asked.pop()
            ranges = looked_at.setdefault(number, [])
            if any(low < before <= high for low, high in ranges):
                continue
            changes = list(self._changes(number, before, since.get(number, 0)))
            ranges.append((min(changes, default=before - 1), before))
            for position in set(changes) - chosen:
                chosen.add(position)
                asked += [(other, position) for other in self._inputs(position)]
        late = any(high < since.get(number, 0) for number, ranges in looked_at.items() for _, high in ranges)
        again = any(i < since.get(n, 0) for i in chosen for n in self.operations[i].outcome)
        return Slice(sorted(chosen), late or again)

    def _changes(self, number: int, before: int, since: int) -> Iterator[int]:
        """Backwards, what changed a storage, down to what left nothing in it of what was there before."""
        for position in reversed(self.writers.get(number, ())):
            if position < since:
                return
            if position < before:
                yield position
                if self.begins(position, number):
                    return

    def _inputs(self, position: int) -> list[int]:
        operation = self.operations[position]
        changed = [view.storage for view in operation.writes if not self.begins(position, view.storage)]
        return [*(view.storage for view in operation.reads), *changed]


@dataclass(frozen=True)
class Slice:
    """Some operations of a record.

    Attributes:
        positions: In order.
        stale: Whether they cannot begin from the values at hand, as an earlier one is needed.
    """

    positions: list[int]
    stale: bool
