"""The mode under which tensors get no memory: what would be done to their values is written down instead."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode, _disable_current_modes
from torch.utils._pytree import tree_leaves, tree_map

from trustformers_pl.deferred.record import OVERWRITING, Operation, Record, View
from trustformers_pl.deferred.replay import Values, generator_put_back
from trustformers_pl.errors import RefusedError

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

aten = torch.ops.aten
META, CPU = torch.device("meta"), torch.device("cpu")
UNINITIALISED = frozenset(
    (aten.empty, aten.empty_like, aten.empty_strided, aten.empty_permuted, aten.new_empty, aten.new_empty_strided)
)
# How many values are kept for the next question, and for how many draws after the last one. `trunc_normal_` asks again
# and again whether what it has drawn, what it draws instead, and the two put together lie within its bounds.
KEPT = 3
NOWHERE = 1 << 62


class CannotRecordError(RefusedError):
    """A construction does something to tensors that can only be done with values; the message says what."""


class Recorder(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Within it the CPU's tensors are made on the meta device.

    Draws are done on memory that is dropped soon, so that the generators go on as ever: numbers that are drawn on
    real tensors in between, and after it, are those of ordinary construction. A value that Python asks for (`.item()`)
    is computed from what was recorded until then.

    Attributes:
        record: What was recorded, to go on with.
        generators: Those of their own that draws were made from, with their states before the first draw.
    """

    def __init__(self, record: Record) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.record = record
        self.generators: dict[int, tuple[torch.Generator, Tensor]] = {}
        self._values = Values(self.record)
        self._since: dict[int, int] = {}
        self._draws_since_asked = KEPT

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Record an operator, or carry it out if it is about real tensors only."""
        del types
        kwargs = kwargs or {}
        with torch._C.DisableTorchFunction():
            if func is aten.lift_fresh.default and not args[0].is_meta:
                return self.constant(args[0])
            tensors = [leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, Tensor)]
            if any(tensor.is_meta for tensor in tensors) or (not tensors and _makes_on_the_cpu(func, kwargs)):
                return self._recorded(func, args, _on_meta(func, kwargs))
            return func(*args, **kwargs)

    def value(self, tensor: Tensor) -> Tensor:
        """The value that a recorded tensor would have now; a real one is its own."""
        if not tensor.is_meta:
            return tensor
        with torch._C.DisableTorchFunction(), _disable_current_modes():
            view = self._view(tensor)
            self._compute([view.storage])
            found = self._values.tensor(view).clone()
            self._asked()
        return found

    def address(self, tensor: Tensor) -> int:
        """A number that tells whether two tensors begin at the same place; no machine has memory there."""
        with torch._C.DisableTorchFunction():
            view = self._view(tensor)
            return NOWHERE + (view.storage << 40) + view.offset * view.dtype.itemsize if view.numel else 0

    def close(self) -> None:
        """Free what was kept for questions."""
        self._draws_since_asked = KEPT
        self._forget_old()

    def constant(self, tensor: Tensor) -> Tensor:
        """A tensor on the meta device that has the value that a real one has now."""
        kept = tensor.detach().clone()
        made = torch.empty_strided(kept.shape, kept.stride(), dtype=kept.dtype, device=META)
        self.record.constants[self.record.add_storage(made)] = kept.untyped_storage()
        return made

    def _recorded(self, function: Any, arguments: Any, keywords: dict[str, Any]) -> Any:
        if any(not leaf.is_meta for leaf in _inputs(function, arguments, keywords, Tensor)[1]):
            raise CannotRecordError(f"{function} writes into a tensor that was there before")
        generator = keywords.get("generator")
        keywords |= {"generator": None} if "generator" in keywords else {}
        draws = torch.Tag.nondeterministic_seeded in function.tags
        before = (generator or torch.default_generator).get_state() if draws else None
        arguments, keywords = tree_map(self._without_memory, (arguments, keywords))
        views = tree_map(self._viewed, (arguments, keywords))  # before it runs: `t_()` changes what its argument is
        reads, writes = _inputs(function, views[0], views[1], View)
        try:
            returned = function(*arguments, **keywords)
        except Exception as error:
            if writes or draws:
                raise CannotRecordError(f"{function} needs values: {_first_line(error)}") from error
            return self._now(function, views)
        self._refuse_other_size(function, writes)
        if torch.Tag.inplace_view not in function.tags and function.overloadpacket is not aten.set_:
            operation = Operation(function, _on_cpu(views), tuple(reads), tuple(writes), self._made(returned), before)
            self._append(operation, generator)
        return returned

    def _append(self, operation: Operation, generator: torch.Generator | None) -> None:
        if operation.function.overloadpacket in UNINITIALISED or not operation.outcome:
            return
        if operation.generator is not None:
            self._draw(operation, generator)
        position = self.record.add(operation)
        if operation.generator is not None:
            self._at_hand(operation.outcome, position + 1)
            self._draws_since_asked += 1
            self._forget_old()

    def _draw(self, operation: Operation, generator: torch.Generator | None) -> None:
        """Move the generator on; what is drawn is at hand for the next question about it."""
        whole = operation.function.overloadpacket in OVERWRITING and all(map(self.record.covers, operation.writes))
        written = [] if whole else operation.writes
        self._compute([view.storage for view in (*operation.reads, *written)])
        source = generator or torch.default_generator
        assert operation.generator is not None
        self.generators.setdefault(id(source), (source, operation.generator))
        changes = {} if generator is None else {"generator": generator}
        self._values.take(operation, self._values.call(operation, **changes))

    def _now(self, function: Any, views: Any) -> Any:
        """What an operator returns whose answer follows from values; tensors become constants."""
        reads, _ = _inputs(function, views[0], views[1], View)
        self._compute([view.storage for view in reads])
        returned = self._values.call(Operation(function, _on_cpu(views), (), (), {}, None))
        answer = tree_map(lambda leaf: self.constant(leaf) if isinstance(leaf, Tensor) else leaf, returned)
        self._asked()
        return answer

    def _compute(self, numbers: Sequence[int]) -> None:
        """Bring the memory of some storages to their present values."""
        wanted = self.record.needed(numbers, self._since)
        if wanted.stale:
            self._values.storages, self._since = {}, {}
            wanted = self.record.needed(numbers)
        with generator_put_back():
            self._values.carry_out(wanted.positions, {*numbers, *self._since})
        for position in wanted.positions:
            self._at_hand(self.record.operations[position].outcome, position + 1)

    def _at_hand(self, numbers: Iterable[int], since: int) -> None:
        for number in numbers:
            if number in self._values.storages:
                self._since.pop(number, None)  # the newest stand last
                self._since[number] = since

    def _asked(self) -> None:
        self._draws_since_asked = 0
        self._forget_old()

    def _forget_old(self) -> None:
        while len(self._since) > (KEPT if self._draws_since_asked < KEPT else 0):
            del self._since[next(iter(self._since))]
        self._values.storages = {number: self._values.storages[number] for number in self._since}

    def _made(self, returned: Any) -> dict[int, View]:
        """The tensors, among those that an operator returned, that have storages of their own."""
        made: dict[int, View] = {}
        for position, leaf in enumerate(tree_leaves(returned)):
            if isinstance(leaf, Tensor) and self.record.view(leaf) is None:
                self.record.add_storage(leaf)
                made[position] = self._view(leaf)
        return made

    def _without_memory(self, leaf: Any) -> Any:
        return self.constant(leaf) if isinstance(leaf, Tensor) and not leaf.is_meta else leaf

    def _viewed(self, leaf: Any) -> Any:
        return self._view(leaf) if isinstance(leaf, Tensor) else leaf

    def _view(self, tensor: Tensor) -> View:
        view = self.record.view(tensor)
        if view is None or tensor.is_conj() or tensor.is_neg():
            raise CannotRecordError("it uses tensors of the meta device that were there before, or conjugated ones")
        return view

    def _refuse_other_size(self, function: Any, writes: Sequence[View]) -> None:
        if any(self.record.was_resized(view.storage) for view in writes):
            raise CannotRecordError(f"{function} changes the size of a tensor in place")


def _makes_on_the_cpu(function: Any, keywords: dict[str, Any]) -> bool:
    takes_device = any(argument.name == "device" for argument in function._schema.arguments)
    return takes_device and torch.device(keywords.get("device") or CPU).type in ("cpu", "meta")


def _on_meta(function: Any, keywords: dict[str, Any]) -> dict[str, Any]:
    """The keywords with which an operator makes nothing but tensors without memory."""
    if torch.device(keywords.get("device") or CPU).type not in ("cpu", "meta"):
        raise CannotRecordError(f"it moves weights to {keywords['device']}")
    named = {argument.name for argument in function._schema.arguments}
    changes = {name: value for name, value in (("device", META), ("pin_memory", False)) if name in named}
    return {**keywords, **changes}


def _on_cpu(views: tuple[Any, dict[str, Any]]) -> tuple[Any, dict[str, Any]]:
    arguments, keywords = views
    return arguments, {**keywords, "device": CPU} if "device" in keywords else keywords


def _inputs(function: Any, arguments: Sequence[Any], keywords: dict[str, Any], kind: type) -> tuple[list[Any], ...]:
    """The tensors that an operator only reads, and those that it changes in place, by its schema."""
    found: tuple[list[Any], list[Any]] = [], []
    for index, argument in enumerate(function._schema.arguments):
        value = arguments[index] if index < len(arguments) else keywords.get(argument.name)
        written = argument.alias_info is not None and argument.alias_info.is_write
        found[written].extend(leaf for leaf in tree_leaves(value) if isinstance(leaf, kind))
    return found


def _first_line(error: Exception) -> str:
    return next(iter(str(error).strip().splitlines()), type(error).__name__)
