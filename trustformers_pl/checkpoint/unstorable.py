"""The refusal of what a state cannot hold: where it is, what it is, what to store instead."""

from __future__ import annotations

import enum

from trustformers_pl.errors import CheckpointError

_MEND = "keep tensors, numbers, strings, lists and dicts in state_dict()"


def refusal(where: str, what: str, mend: str = _MEND) -> CheckpointError:
    """Word the error for one thing that cannot be stored.

    Args:
        where: Its path inside the state.
        what: What it is.
        mend: What to do instead.

    Returns:
        The error, to be raised.
    """
    return CheckpointError(f"{where or 'state'}: {what} cannot be stored; {mend}")


def describe(x: object) -> tuple[str, str]:
    """Say what something is that no codec knows.

    Args:
        x: The thing.

    Returns:
        What it is, and what to store instead.
    """
    name = f"{type(x).__module__}.{type(x).__qualname__}".removeprefix("builtins.")
    if isinstance(x, enum.Enum):
        return f"the enum member {type(x).__qualname__}.{x.name}", "store its name or value"
    if isinstance(x, type):
        return f"the class {x.__qualname__}", "store its name"
    if callable(x) and hasattr(x, "__name__"):
        return f"a {type(x).__name__.replace('_', ' ')}", _MEND
    return f"an object of type {name}", _MEND
