"""The operations whose per-sample gradients have a rule: for each, what its parameters contribute.

A rule has the signature of its operation and answers with (parameter, contribution, data): `data` is what the
contribution needs of the operation's inputs, with the samples where they are in the output.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import Size, Tensor
from torch.nn import functional as F

from trustformers_pl.continual.contributions import Contribution, Kernel, Matrix, Scale, Shift, Table
from trustformers_pl.continual.layouts import Layout, first, sample_major, sample_minor, second

if TYPE_CHECKING:
    from collections.abc import Callable

IMAGES: tuple[Layout, ...] = (first, sample_major, sample_minor)
"""Layouts of what has its channels in the second dimension."""


class Found(NamedTuple):
    """One parameter of an operation.

    Attributes:
        parameter: The tensor.
        contribution: Its rule.
        data: What of the operation's inputs the rule reads.
        prepare: Makes the rule's data of `data`, for the whole batch, when gradients are formed.
        layouts: In which the rule holds.
    """

    parameter: Tensor | None
    contribution: Contribution
    data: Tensor
    prepare: Callable[[Tensor], Tensor] | None = None
    layouts: tuple[Layout, ...] = (first, second, sample_major, sample_minor)


def linear(input: Tensor, weight: Tensor, bias: Tensor | None = None) -> list[Found]:  # noqa: A002
    """`F.linear`."""
    return [Found(weight, Matrix(weight.shape), input), _bias(bias, input)]


def addmm(input: Tensor, mat1: Tensor, mat2: Tensor, *, beta: float = 1, alpha: float = 1) -> list[Found]:  # noqa: A002
    """`torch.addmm`, as in the `Conv1D` of GPT-2."""
    if beta != 1 or alpha != 1:
        return []
    return [Found(mat2, Matrix(mat2.shape, turned=True), mat1), _bias(input, mat1)]


def matmul(input: Tensor, other: Tensor) -> list[Found]:  # noqa: A002
    """`x @ W` with a matrix W."""
    return [Found(other, Matrix(other.shape, turned=True), input)] if other.dim() == 2 and input.dim() > 1 else []


def convolution(
    input: Tensor,  # noqa: A002
    weight: Tensor,
    bias: Tensor | None = None,
    stride: Any = 1,
    padding: Any = 0,
    dilation: Any = 1,
    groups: int = 1,
) -> list[Found]:
    """`F.conv1d` and `F.conv2d`; padding by name only where it is `valid`."""
    inner = weight.dim() - 2
    padding = 0 if padding == "valid" else padding
    if isinstance(padding, str) or input.dim() != weight.dim():
        return []
    kernel = Kernel(weight.shape, _pair(stride, inner, 1), _pair(padding, inner, 0), _pair(dilation, inner, 1), groups)
    return [Found(weight, kernel, input, layouts=IMAGES), _per_channel(Shift, bias, input)]


def layer_norm(
    input: Tensor,  # noqa: A002
    normalized_shape: Any,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    eps: float = 1e-5,
) -> list[Found]:
    """`F.layer_norm`."""

    def prepare(x: Tensor) -> Tensor:
        return F.layer_norm(x, normalized_shape, eps=eps)

    return [_scale(weight, input, prepare), _bias(bias, input)]


def rms_norm(
    input: Tensor,  # noqa: A002
    normalized_shape: Any,
    weight: Tensor | None = None,
    eps: float | None = None,
) -> list[Found]:
    """`F.rms_norm`."""
    return [_scale(weight, input, lambda x: F.rms_norm(x, normalized_shape, eps=eps))]


def group_norm(
    input: Tensor,  # noqa: A002
    num_groups: int,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    eps: float = 1e-5,
) -> list[Found]:
    """`F.group_norm`."""

    def prepare(x: Tensor) -> Tensor:
        return F.group_norm(x, num_groups, eps=eps)

    return [_per_channel(Scale, weight, input, prepare), _per_channel(Shift, bias, input)]


def batch_norm(
    input: Tensor,  # noqa: A002
    running_mean: Tensor | None,
    running_var: Tensor | None,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    training: bool = False,
    momentum: float = 0.1,
    eps: float = 1e-5,
) -> list[Found]:
    """`F.batch_norm` with running statistics; with those of the batch, samples have no gradients of their own."""
    del momentum
    if training or running_mean is None or running_var is None:
        return []

    def prepare(x: Tensor) -> Tensor:
        return F.batch_norm(x, running_mean, running_var, eps=eps)

    return [_per_channel(Scale, weight, input, prepare), _per_channel(Shift, bias, input)]


def embedding(
    input: Tensor,  # noqa: A002
    weight: Tensor,
    padding_idx: int | None = None,
    max_norm: float | None = None,
    norm_type: float = 2.0,
    scale_grad_by_freq: bool = False,
    sparse: bool = False,
) -> list[Found]:
    """`F.embedding`; not with `max_norm`, which changes the table, or frequencies, which mix samples."""
    del norm_type, sparse
    if max_norm is not None or scale_grad_by_freq:
        return []
    if padding_idx is not None and padding_idx < 0:
        padding_idx += weight.shape[0]
    return [Found(weight, Table(weight.shape, padding_idx), input)]


def add(input: Tensor, other: Any, *, alpha: float = 1) -> list[Found]:  # noqa: A002
    """`x + p` with broadcasting."""
    return _broadcast(Shift, input, other) if alpha == 1 else []


def multiply(input: Tensor, other: Any) -> list[Found]:  # noqa: A002
    """`x * p` with broadcasting."""
    return _broadcast(Scale, input, other)


def expand(input: Tensor, *sizes: Any) -> list[Found]:  # noqa: A002
    """`p.expand(B, ...)`: the same for every sample, as with a class token."""
    del sizes
    return [Found(input, Shift(input.shape, _tail(input.shape)), input, layouts=(first,))]


def _bias(bias: Tensor | None, data: Tensor) -> Found:
    shape = Size() if bias is None else bias.shape
    return Found(bias, Shift(shape, shape), data)


def _scale(weight: Tensor | None, data: Tensor, prepare: Callable[[Tensor], Tensor]) -> Found:
    shape = Size() if weight is None else weight.shape
    return Found(weight, Scale(shape, shape), data, prepare)


def _per_channel(
    kind: type[Shift], parameter: Tensor | None, data: Tensor, prepare: Callable[[Tensor], Tensor] | None = None
) -> Found:
    shape = Size() if parameter is None else parameter.shape
    seen = Size([*shape, *[1] * (data.dim() - 2)])
    return Found(parameter, kind(shape, seen), data, prepare, IMAGES)


def _broadcast(kind: type[Shift], one: Any, two: Any) -> list[Found]:
    if not (isinstance(one, Tensor) and isinstance(two, Tensor)):
        return []
    small, large = (one, two) if len(_tail(one.shape)) < len(_tail(two.shape)) else (two, one)
    tail = _tail(small.shape)
    fits = len(tail) < large.dim() and torch.broadcast_shapes(small.shape, large.shape) == large.shape  # type: ignore[no-untyped-call]
    return [Found(small, kind(small.shape, tail), large, layouts=(first,))] if fits else []


def _tail(shape: Size) -> Size:
    """Without the ones in front."""
    start = next((axis for axis, size in enumerate(shape) if size != 1), len(shape))
    return shape[start:]


def _pair(value: Any, inner: int, missing: int) -> tuple[int, int]:
    values = [value] * inner if isinstance(value, int) else [*value] * (inner if len(value) == 1 else 1)
    return (missing, values[0]) if inner == 1 else (values[0], values[1])


RULES: dict[Any, Callable[..., list[Found]]] = {
    F.linear: linear,
    torch.addmm: addmm,
    torch.matmul: matmul,
    torch.mm: matmul,
    Tensor.matmul: matmul,
    Tensor.__matmul__: matmul,
    F.conv1d: convolution,
    F.conv2d: convolution,
    F.layer_norm: layer_norm,
    F.rms_norm: rms_norm,
    F.group_norm: group_norm,
    F.batch_norm: batch_norm,
    F.embedding: embedding,
    torch.add: add,
    Tensor.add: add,
    Tensor.__add__: add,
    Tensor.__radd__: add,
    torch.mul: multiply,
    Tensor.mul: multiply,
    Tensor.__mul__: multiply,
    Tensor.__rmul__: multiply,
    Tensor.expand: expand,
}
"""Operation, as torch names it to a `TorchFunctionMode`, and its rule."""

READS = frozenset(
    getattr(Tensor, name).__get__ for name in ("shape", "dtype", "device", "ndim", "requires_grad", "is_leaf", "layout")
) | {
    Tensor.size,
    Tensor.dim,
    Tensor.numel,
    Tensor.__len__,
    Tensor.stride,
    Tensor.is_floating_point,
    torch.is_floating_point,
}
"""What asks something of a tensor and computes nothing of it."""
