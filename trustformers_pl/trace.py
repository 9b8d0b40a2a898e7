"""The trace switch: every hook call, with what each plugin answered."""

from __future__ import annotations

import os
import sys
from functools import wraps
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable

    import pluggy

SWITCH = "TFPL_TRACE"


def trace_if_asked(manager: pluggy.PluginManager) -> None:
    """With `TFPL_TRACE=1` in the environment, print each hook call on stderr: plugin, hook, phase and answer."""
    if os.environ.get(SWITCH, "0") in ("", "0"):
        return
    for name in vars(manager.hook):
        caller = getattr(manager.hook, name)
        for implementation in caller.get_hookimpls() if hasattr(caller, "get_hookimpls") else ():
            implementation.function = _traced(implementation.function, f"{implementation.plugin_name}.{name}")


def _traced(function: Callable[..., Any], name: str) -> Callable[..., Any]:
    @wraps(function)
    def traced(*arguments: Any, **keywords: Any) -> Any:
        answer = function(*arguments, **keywords)
        phases = ", ".join(str(argument) for argument in (*arguments, *keywords.values()) if isinstance(argument, str))
        print(f"trace: {name}({phases}) -> {answer!r}", file=sys.stderr)
        return answer

    return traced
