"""Building a module without memory for its weights."""

from __future__ import annotations

import logging
from contextlib import ExitStack, contextmanager
from contextvars import ContextVar
from typing import TYPE_CHECKING, Any, TypeVar

from torch.distributed.tensor import DTensor
from torch.nn.modules import module as registration

from trustformers_pl.deferred.filling import give_attributes_their_values
from trustformers_pl.deferred.functions import AsOnTheCpu
from trustformers_pl.deferred.modules import deferred_record, note_values
from trustformers_pl.deferred.record import Record
from trustformers_pl.deferred.recorder import CannotRecordError, Recorder
from trustformers_pl.randomness import random_state, restore_random_state

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from torch import nn

logger = logging.getLogger(__name__)
Built = TypeVar("Built")
_active: ContextVar[Recorder | None] = ContextVar("recorder", default=None)


@contextmanager
def deferred() -> Iterator[Recorder]:
    """Within this block, modules are built without memory for their tensors.

    `with deferred(): model = GPT()`. What would be done to the tensors is recorded, and `fill` does it later, with the
    same bits. After the block the global generators stand where ordinary construction would have left them. Within
    another such block it does nothing.

    Raises:
        CannotRecordError: The construction needs values outside of torch. `build_deferred` goes on without.
    """
    outer = _active.get()
    if outer is not None:
        yield outer
        return
    seen: dict[int, nn.Module] = {}
    with ExitStack() as stack:
        for handle in _watched(seen):
            stack.callback(handle.remove)
        recorder = stack.enter_context(_recording(Record()))
        yield recorder
    recorder.record.built = len(recorder.record.operations)
    below = {id(inner) for module in seen.values() for inner in module.modules() if inner is not module}
    for module in (module for key, module in seen.items() if key not in below):
        note_values(module, recorder.record)
        give_attributes_their_values(module)


@contextmanager
def still_deferred(module: nn.Module) -> Iterator[None]:
    """Within this block, what is done to a deferred module is recorded too, and what is added to it has no memory.

    Without it, an operator on tensors of the meta device does nothing and says nothing. A module that has its values,
    or is sharded, is left alone.

    Raises:
        CannotRecordError: Something needs values outside of torch.
    """
    record = deferred_record(module)
    if record is None or any(isinstance(parameter, DTensor) for parameter in module.parameters()):
        yield
        return
    with _recording(record):
        yield
    note_values(module, record)
    give_attributes_their_values(module)


@contextmanager
def _recording(record: Record) -> Iterator[Recorder]:
    recorder = Recorder(record)
    token = _active.set(recorder)
    try:
        with recorder, AsOnTheCpu(recorder):
            yield recorder
    finally:
        _active.reset(token)
        recorder.close()


def is_deferring() -> bool:
    """Whether modules that are built now are built by `deferred`."""
    return _active.get() is not None


def build_deferred(build: Callable[[], Built]) -> Built:
    """What `build` returns, built by `deferred`; where that cannot be, built again in the ordinary way.

    One line in the log says why then. The random generators are put back before.

    Args:
        build: Builds a module, and has no other effect.

    Raises:
        Exception: What ordinary construction raises.
    """
    before = random_state()
    try:
        with deferred() as recorder:
            return build()
    except Exception as error:  # whatever it is, ordinary construction tells whether it is the module's own
        restore_random_state(before)
        for generator, state in recorder.generators.values():
            generator.set_state(state)
        built = build()
        logger.warning("%s is built with all its weights at once: %s", type(built).__name__, _cause(error))
        return built


def _watched(seen: dict[int, nn.Module]) -> list[Any]:
    """Let modules be put into `seen` when something is registered in them."""

    def see(module: nn.Module, name: str, value: Any) -> None:
        del name, value
        seen[id(module)] = module

    return [
        registration.register_module_parameter_registration_hook(see),
        registration.register_module_buffer_registration_hook(see),
        registration.register_module_module_registration_hook(see),
    ]


def _cause(error: BaseException) -> str:
    """The innermost reason: builders put errors into their own."""
    found: BaseException | None = error
    while found is not None and not isinstance(found, CannotRecordError):
        found = found.__cause__
    return " ".join(str(found or error).split()) or type(error).__name__
