"""What one use of a parameter adds to its gradient, sample by sample, given the gradient of the use's output.

All tensors have the samples in front: (b, ...). Sources: Goodfellow 2015, "Efficient Per-Example Gradient
Computations" (linear layers); Rochette et al. 2019, "Efficient Per-Example Gradient Computations in Convolutional
Neural Networks" (convolutions as linear layers on unfolded patches).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Size, Tensor
from torch.nn import functional as F

Measure = Callable[[Tensor], Tensor]
"""`torch.square` or `torch.abs`: both of a product are the product of both."""


class Contribution(Protocol):
    """A rule for one operation and one of its parameters."""

    @property
    def shape(self) -> Size:
        """Of the parameter."""

    @property
    def spread(self) -> int:
        """How many times larger than the data what the rule makes of them is."""

    def gradients(self, data: Tensor, upstream: Tensor) -> Tensor:
        """Per-sample gradients (b, *shape), from the operation's input and the gradient of its output."""

    def measured(self, data: Tensor, upstream: Tensor, measure: Measure) -> Tensor | None:
        """The sum over samples of the measured gradients (*shape), without forming them; None where it cannot."""


class _Formed:
    """A contribution whose per-sample gradients must be formed."""

    spread = 1

    def measured(self, data: Tensor, upstream: Tensor, measure: Measure) -> Tensor | None:
        """None."""
        del data, upstream, measure
        return None


@dataclass(frozen=True)
class Matrix:
    """The matrix of `y = x W^T`, x (b, ..., i) and y (b, ..., o); with `turned`, of `y = x W`."""

    shape: Size
    turned: bool = False
    spread = 1

    def gradients(self, data: Tensor, upstream: Tensor) -> Tensor:
        """The sum over positions of the outer products of g and x."""
        left, right = (data, upstream) if self.turned else (upstream, data)
        if data.dim() == 2:
            return left.unsqueeze(2) * right.unsqueeze(1)
        return torch.bmm(left.flatten(1, -2).transpose(1, 2), right.flatten(1, -2))

    def measured(self, data: Tensor, upstream: Tensor, measure: Measure) -> Tensor | None:
        """With one position a sample, sum_b (g_bo x_bi)^2 = (g^2)^T x^2: one product of matrices."""
        if data.dim() > 2:
            if data[0, ..., 0].numel() != 1:
                return None
            data, upstream = data.flatten(1), upstream.flatten(1)
        left, right = (data, upstream) if self.turned else (upstream, data)
        return measure(left).T @ measure(right)


@dataclass(frozen=True)
class Shift(_Formed):
    """What is added with broadcasting: a bias, a learned vector.

    Attributes:
        shape: Of the parameter.
        seen: As which shape it meets the output, aligned at the last dimension.
    """

    shape: Size
    seen: Size

    def gradients(self, data: Tensor, upstream: Tensor) -> Tensor:
        """The gradient of the output, summed over the dimensions that the parameter lacks."""
        del data
        return _reduced(upstream, self.seen).reshape(-1, *self.shape)


@dataclass(frozen=True)
class Scale(Shift):
    """What is multiplied with broadcasting: the weight of a norm, whose data are the normalised inputs."""

    def gradients(self, data: Tensor, upstream: Tensor) -> Tensor:
        """The product of data and gradient, summed over the dimensions that the parameter lacks."""
        return super().gradients(data, upstream * data)


def _reduced(x: Tensor, seen: Size) -> Tensor:
    """Sum (b, ..., *tail) over all but the samples and where `seen`, aligned with the tail, is not 1: (b, *seen)."""
    middle = x.dim() - 1 - len(seen)
    if middle:
        x = x.flatten(1, middle).sum(1) if middle > 1 else x.sum(1)
    one = [axis + 1 for axis, size in enumerate(seen) if size == 1 and x.shape[axis + 1] != 1]
    return x.sum(one, keepdim=True) if one else x


@dataclass(frozen=True)
class Table:
    """The rows of an embedding; data are the row numbers (b, ...).

    Attributes:
        shape: (V, d).
        padding: A row that takes no gradient.
    """

    shape: Size
    padding: int | None = None
    spread = 1

    def gradients(self, data: Tensor, upstream: Tensor) -> Tensor:
        """Gradients scattered to the rows that were looked up; a row looked up twice in a sample has their sum."""
        numbers, values = self._flat(data, upstream)
        dense = values.new_zeros(len(values), *self.shape)
        return dense.scatter_add_(1, numbers.unsqueeze(2).expand_as(values), values)

    def measured(self, data: Tensor, upstream: Tensor, measure: Measure) -> Tensor | None:
        """Sums over equal (sample, row) first, then over samples: no more memory than the embedded batch."""
        numbers, values = self._flat(data, upstream)
        samples = torch.arange(len(numbers), device=numbers.device).unsqueeze(1)
        pairs, place = torch.unique(samples * self.shape[0] + numbers, return_inverse=True)
        summed = values.new_zeros(len(pairs), self.shape[1]).index_add_(0, place.flatten(), values.flatten(0, 1))
        return values.new_zeros(self.shape).index_add_(0, pairs % self.shape[0], measure(summed))

    def _flat(self, data: Tensor, upstream: Tensor) -> tuple[Tensor, Tensor]:
        values = upstream.reshape(len(upstream), -1, upstream.shape[-1])
        numbers = data.reshape(len(data), -1)
        if self.padding is not None:
            values = values * (numbers != self.padding).unsqueeze(2)
        return numbers, values


@dataclass(frozen=True)
class Kernel(_Formed):
    """The kernel of a convolution over one or two dimensions; data are its inputs (b, ..., c, *size).

    Attributes:
        shape: (o, c / groups, *kernel).
        stride: A number for each dimension, as all below.
        padding: Zeros on each side.
        dilation: Steps between the kernel's elements.
        groups: In which channels fall.
    """

    shape: Size
    stride: tuple[int, int]
    padding: tuple[int, int]
    dilation: tuple[int, int]
    groups: int

    @property
    def spread(self) -> int:  # type: ignore[override]
        """Each input stands in as many patches as the kernel has places."""
        return self.shape[2:].numel()

    def gradients(self, data: Tensor, upstream: Tensor) -> Tensor:
        """A linear layer's gradients, whose inputs are the patches of a sample."""
        inner = len(self.shape) - 1
        samples, images = len(data), data.flatten(0, -inner - 1)
        if inner == 2:
            images = images.unsqueeze(2)
        size = self.shape[2:] if inner > 2 else (1, self.shape[2])
        patches = F.unfold(images, size, dilation=self.dilation, padding=self.padding, stride=self.stride)
        patches = patches.reshape(samples, -1, self.groups, self.shape[1:].numel(), patches.shape[-1])
        outputs = upstream.reshape(samples, -1, self.groups, self.shape[0] // self.groups, patches.shape[-1])
        found = torch.einsum("bkgop,bkgip->bgoi", outputs, patches)
        return found.reshape(samples, *self.shape)


@dataclass(frozen=True, eq=False)
class Through(_Formed):
    """A parameter that meets data by way of what is computed of it: a slice, a product, a table of positions.

    Attributes:
        inner: The rule for what is computed of it.
        outcome: What is computed, with its graph.
        parameter: The parameter.
    """

    inner: Contribution
    outcome: Tensor
    parameter: Tensor

    @property
    def shape(self) -> Size:
        """Of the parameter."""
        return self.parameter.shape

    @property
    def spread(self) -> int:  # type: ignore[override]
        """That of the inner rule."""
        return self.inner.spread

    def gradients(self, data: Tensor, upstream: Tensor) -> Tensor:
        """The inner rule's gradients, each taken back to the parameter."""
        formed = self.inner.gradients(data, upstream)
        back = [self._back(one.to(self.outcome.dtype)) for one in formed]
        return torch.stack(back).to(formed.dtype)

    def _back(self, gradient: Tensor) -> Tensor:
        (found,) = torch.autograd.grad(
            self.outcome,
            self.parameter,
            gradient.reshape(self.outcome.shape),
            retain_graph=True,
            materialize_grads=True,
        )
        return found
