"""Real ranks for tests: one process each, gloo on the loopback, started as torchrun would start them."""

from __future__ import annotations

import contextlib
import io
import textwrap

from trustformers_pl.testing import Ranks


def on_ranks(world_size: int, code: str, *, seconds: float = 120.0) -> list[str]:
    """Run Python source in `world_size` processes; what each printed, in the order of ranks.

    Raises:
        AssertionError: A rank failed; its errors are the message.
    """
    return Ranks().run(world_size, _printed, textwrap.dedent(code), seconds=seconds)


def _printed(code: str) -> str:
    with contextlib.redirect_stdout(io.StringIO()) as output:
        exec(compile(code, "<rank>", "exec"), {"__name__": "__main__"})
    return output.getvalue()
