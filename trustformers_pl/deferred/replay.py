"""Operations of a record, carried out on memory that is freed after its last use."""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.utils._pytree import tree_leaves, tree_map

from trustformers_pl.deferred.record import View

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator, Mapping, Sequence

    from torch import UntypedStorage

    from trustformers_pl.deferred.placing import Source
    from trustformers_pl.deferred.record import Operation, Record


# The whole of a storage, and where its value at the end of the construction is read, instead of being recorded.
Base = tuple[View, "Source"]


class Values:
    """The memory of a record's storages, as far as it is needed at the moment.

    Attributes:
        bases: Storages whose first value is read from elsewhere.
        storages: Number of a storage -> its memory on the CPU.
        most: The most bytes that were in memory at one time, without constants.
    """

    def __init__(self, record: Record, bases: Mapping[int, Base] | None = None) -> None:
        self.record, self.bases = record, bases or {}
        self.storages: dict[int, UntypedStorage] = {}
        self.most = 0

    @property
    def live(self) -> int:
        """Bytes in memory now, without constants."""
        return sum(storage.nbytes() for storage in self.storages.values())

    def tensor(self, view: View) -> Tensor:
        """The tensor of a view; memory that nothing has written to is as `torch.empty` leaves it."""
        return view.of(self._storage(view.storage))

    def _storage(self, number: int) -> UntypedStorage:
        if number not in self.storages and number in self.bases:
            view, source = self.bases[number]
            self.storages[number] = _memory(self.record.sizes[number])
            view.of(self.storages[number]).copy_(source.read({}))
        if number not in self.storages:
            constant = self.record.constants.get(number)
            if constant is not None and number not in self.record.writers:
                return constant
            size = self.record.sizes[number]
            self.storages[number] = _memory(size) if constant is None else _copy(constant)
        return self.storages[number]

    def own(self, number: int) -> None:
        """Let a storage that is a constant of the record be a copy of it, for someone who will change it."""
        if number not in self.storages and number in self.record.constants:
            self.storages[number] = _copy(self.record.constants[number])

    def make(self, number: int) -> None:
        """Make the present value of a storage, and nothing else that stays."""
        since = dict.fromkeys(self.bases, self.record.built)
        self.carry_out(self.record.needed([number], since).positions, {number})
        self.own(number)

    def carry_out(self, positions: Sequence[int], keep: Collection[int]) -> None:
        """Carry out some operations, in order; memory that is not to be kept is freed after its last use.

        Sets the state of the CPU's global generator: see `generator_put_back`.
        """
        last: dict[int, int] = {}
        for position in positions:
            for number in _touched(self.record.operations[position]):
                last[number] = position
        for position in positions:
            operation = self.record.operations[position]
            self._run(operation)
            self.most = max(self.most, self.live)
            for number in _touched(operation):
                if last[number] == position and number not in keep:
                    self.storages.pop(number, None)

    def _run(self, operation: Operation) -> None:
        if operation.generator is not None:
            torch.default_generator.set_state(operation.generator)
        self.take(operation, self.call(operation))

    def call(self, operation: Operation, **changes: Any) -> Any:
        """What an operation returns for the values at hand."""
        arguments, keywords = tree_map(
            lambda leaf: self.tensor(leaf) if isinstance(leaf, View) else leaf, operation.arguments
        )
        return operation.function(*arguments, **{**keywords, **changes})

    def take(self, operation: Operation, returned: Any) -> None:
        """Keep what an operation has made."""
        leaves = tree_leaves(returned)
        inputs = {self._storage(view.storage)._cdata for view in (*operation.reads, *operation.writes)}
        for position, view in operation.makes.items():
            storage = leaves[position].untyped_storage()
            same = leaves[position].stride() == view.stride and leaves[position].storage_offset() == view.offset
            if same and storage.nbytes() == self.record.sizes[view.storage] and storage._cdata not in inputs:
                self.storages[view.storage] = storage
            else:  # the CPU lays it out in another way than the meta device said
                self.storages.pop(view.storage, None)
                self.tensor(view).copy_(leaves[position])


def _memory(size: int) -> UntypedStorage:
    return torch.empty(size, dtype=torch.uint8).untyped_storage()


def _copy(storage: UntypedStorage) -> UntypedStorage:
    copy: UntypedStorage = storage.clone()  # type: ignore[no-untyped-call]
    return copy


def _touched(operation: Operation) -> set[int]:
    return {*operation.outcome, *(view.storage for view in operation.reads)}


@contextmanager
def generator_put_back() -> Iterator[None]:
    """Leave the CPU's global generator as it was."""
    before = torch.default_generator.get_state()
    try:
        yield
    finally:
        torch.default_generator.set_state(before)
