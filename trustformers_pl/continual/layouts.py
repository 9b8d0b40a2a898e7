"""Where the samples of a batch stand in a tensor: which layouts fit a shape, and how to bring each to the front."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Size, Tensor

Layout = Callable[["Tensor", int], "Tensor"]


def first(x: Tensor, samples: int) -> Tensor:
    """(B, ...) as it is."""
    del samples
    return x


def second(x: Tensor, samples: int) -> Tensor:
    """(T, B, ...) to (B, T, ...): recurrent networks, and attention that puts time first."""
    del samples
    return x.transpose(0, 1)


def sample_major(x: Tensor, samples: int) -> Tensor:
    """(B * T, ...) to (B, T, ...): rows of one sample stand together."""
    return x.reshape(samples, -1, *x.shape[1:])


def sample_minor(x: Tensor, samples: int) -> Tensor:
    """(T * B, ...) to (B, T, ...): rows of one position stand together."""
    return x.reshape(-1, samples, *x.shape[1:]).transpose(0, 1)


def fitting(shape: Size, samples: int) -> tuple[Layout, ...]:
    """The layouts that a tensor whose last dimension holds features may have, the likeliest one first.

    Args:
        shape: Of an operation's output.
        samples: B.
    """
    found: list[Layout] = []
    if shape and shape[0] == samples:
        found.append(first)
    if len(shape) > 2 and shape[1] == samples:
        found.append(second)
    if len(shape) > 1 and shape[0] > samples and shape[0] % samples == 0:
        found += [sample_major, sample_minor]
    return tuple(found)
