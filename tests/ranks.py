"""Real ranks for tests: one process each, gloo on the loopback, started as torchrun would start them."""

from __future__ import annotations

import contextlib
import io
import os
import textwrap
from typing import TYPE_CHECKING

import torch

from trustformers_pl.testing import Ranks

if TYPE_CHECKING:
    from collections.abc import Iterator


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


@contextlib.contextmanager
def ranks_left_behind() -> Iterator[None]:
    """Close what a run on a mesh leaves: its process group, and LOCAL_RANK, which a later launcher would believe."""
    before = dict(os.environ)
    yield
    if torch.distributed.is_initialized():
        torch.distributed.destroy_process_group()
    for name in os.environ.keys() - before.keys():
        del os.environ[name]
