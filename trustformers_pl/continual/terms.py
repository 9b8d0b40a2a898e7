"""The uses of a parameter in one batch, with the gradients of their outputs, samples in front."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import islice, product
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from trustformers_pl.continual.contributions import Matrix

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from trustformers_pl.continual.contributions import Contribution, Measure
    from trustformers_pl.continual.layouts import Layout
    from trustformers_pl.continual.uses import Use

CHOICES = 64
"""Most combinations of layouts that are tried for a parameter: those of three uses in flattened rows."""


@dataclass(frozen=True)
class Terms:
    """What adds up to the per-sample gradients of one parameter.

    Attributes:
        parts: Contribution, data (B, ...) and gradient of the output (B, ...), one a use.
        dtype: In which gradients are formed.
    """

    parts: Sequence[tuple[Contribution, Tensor, Tensor]]
    dtype: torch.dtype

    def closed(self, measure: Measure) -> Tensor | None:
        """The measured sum over samples without forming gradients, where the rule has a way and is the only one."""
        if len(self.parts) != 1:
            return None
        contribution, data, upstream = self.parts[0]
        return contribution.measured(self._wide(data), self._wide(upstream), measure)

    def squares_of_outputs(self, measure: Measure) -> Tensor | None:
        """The measured gradients of the output, where all that is needed of several losses is their sum (see `folded`).

        That is a matrix with one position a sample: sum_k (g_k^2)^T x^2 = (sum_k g_k^2)^T x^2.
        """
        if len(self.parts) != 1:
            return None
        contribution, data, upstream = self.parts[0]
        return measure(self._wide(upstream)) if isinstance(contribution, Matrix) and data.dim() == 2 else None

    def folded(self, outputs: Tensor, measure: Measure) -> Tensor:
        """The measured sum over samples and losses, of the sum over losses of `squares_of_outputs`."""
        contribution, data, _ = self.parts[0]
        found = contribution.measured(measure(self._wide(data)), outputs, lambda x: x)
        if found is None:
            raise TypeError(f"{type(contribution).__name__} has no closed form")
        return found

    def formed(self, limit: int) -> Iterator[tuple[Tensor, slice]]:
        """Per-sample gradients (b, *shape) of some samples, and which.

        Args:
            limit: Most bytes that one tensor may take in this; one sample is always taken.
        """
        samples = len(self.parts[0][2]) if self.parts else 0
        step = max(1, limit // max(1, self._bytes_a_sample())) if samples else 1
        for start in range(0, samples, step):
            part = slice(start, start + step)
            yield self._sum(part), part

    def weighted(self, factors: Tensor, limit: int) -> Tensor | None:
        """The sum over samples of factors (B,) times gradients: one sample made of all; None is zero.

        Args:
            factors: Of each sample.
            limit: Most bytes that one tensor made on the way may take; one sample's is always made.
        """
        total: Tensor | None = None
        for contribution, data, upstream in self.parts:
            scaled = upstream * factors.to(upstream.dtype).view(-1, *[1] * (upstream.dim() - 1))
            numbers = max(contribution.spread * data.numel(), upstream.numel())
            step = max(1, limit * len(upstream) // (self.dtype.itemsize * max(1, numbers)))
            for start in range(0, len(upstream), step):
                part = slice(start, start + step)
                found = contribution.gradients(self._wide(data[part])[None], self._wide(scaled[part])[None])[0]
                total = found if total is None else total + found
        return total

    def scale(self) -> Tensor | float:
        """A bound of the norm of the batch's gradient (Cauchy-Schwarz), against which rounding is judged."""
        bounds = [
            upstream.float().norm() * max(data.float().norm().item(), (upstream[..., :1].numel()) ** 0.5)
            for _, data, upstream in self.parts
        ]
        return torch.stack(bounds).sum() if bounds else 0.0

    def precision(self) -> torch.dtype:
        """The coarsest type among the gradients of outputs."""
        types = [upstream.dtype for *_, upstream in self.parts]
        return max(types, key=lambda one: torch.finfo(one).eps, default=self.dtype)

    def _sum(self, part: slice) -> Tensor:
        first, *more = self.parts
        total = self._gradients(*first, part)
        for one in more:
            total = total + self._gradients(*one, part)
        return total

    def _gradients(self, contribution: Contribution, data: Tensor, upstream: Tensor, part: slice) -> Tensor:
        return contribution.gradients(self._wide(data[part]), self._wide(upstream[part]))

    def _wide(self, x: Tensor) -> Tensor:
        return x.to(self.dtype) if x.is_floating_point() else x

    def _bytes_a_sample(self) -> int:
        numbers = [
            max(contribution.spread * data.numel(), upstream.numel()) // len(upstream)
            for contribution, data, upstream in self.parts
        ]
        return self.dtype.itemsize * max(*numbers, *[contribution.shape.numel() for contribution, *_ in self.parts])


class UsesOfBatch:
    """The recorded uses of one batch.

    Args:
        uses: Name of a parameter -> its uses.
        samples: B.
    """

    def __init__(self, uses: Mapping[str, Sequence[Use]], samples: int) -> None:
        self.uses = uses
        self.samples = samples
        self._prepared: dict[int, Tensor] = {}

    def choices(self, name: str) -> list[tuple[Layout, ...]]:
        """Where the samples of each use may be, the likeliest first; one empty choice for a parameter without use."""
        return list(islice(product(*[use.layouts(self.samples) for use in self.uses.get(name, ())]), CHOICES))

    def upstream(self, loss: Tensor, names: Sequence[str], *, keep: bool) -> dict[int, Tensor]:
        """The gradient of a scalar loss with respect to the output of each use: `id` of its edge -> gradient.

        Args:
            loss: The sum of the samples' losses.
            names: Of the parameters whose uses are meant.
            keep: Whether the graph is needed again.
        """
        edges = {id(use.edge): use.edge for name in names for use in self.uses.get(name, ())}
        if not edges:
            return {}
        gradients = torch.autograd.grad(loss, [*edges.values()], retain_graph=keep, allow_unused=True)
        return {key: gradient for key, gradient in zip(edges, gradients, strict=True) if gradient is not None}

    @torch.no_grad()
    def terms(self, name: str, layouts: Sequence[Layout], upstream: Mapping[int, Tensor], dtype: torch.dtype) -> Terms:
        """A parameter's terms, its uses laid out as `layouts` say; without those that the loss does not depend on."""
        parts = []
        for use, layout in zip(self.uses.get(name, ()), layouts, strict=True):
            gradient = upstream.get(id(use.edge))
            if gradient is not None:
                data = layout(self._data(use), self.samples)
                parts.append((use.found.contribution, data, layout(gradient, self.samples)))
        return Terms(parts, dtype)

    def _data(self, use: Use) -> Tensor:
        if use.found.prepare is None:
            return use.found.data
        if id(use) not in self._prepared:
            self._prepared[id(use)] = use.found.prepare(use.found.data)
        return self._prepared[id(use)]
