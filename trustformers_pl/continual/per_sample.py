"""Sums over samples of measured per-sample gradients, without a backward pass for each sample.

One backward pass of a batch gives the gradient of every layer's output; from it and the layer's input the gradients of
the samples follow (see `contributions`). A parameter used several times in a forward pass has the sum of its uses'
gradients, added before it is measured. What has no rule is computed sample by sample: slower, and exact.

Nothing is taken on trust. For the first batch, and wherever shapes leave another choice of layout, the per-sample
gradients times random numbers are added and compared with what autograd gives for the same combination of losses. An
overlooked use, a wrong layout, or samples that influence each other make them differ: such parameters are computed
sample by sample from then on.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

from trustformers_pl.continual.terms import UsesOfBatch
from trustformers_pl.continual.uses import Uses
from trustformers_pl.modes import evaluating

if TYPE_CHECKING:
    from collections.abc import Callable

    from trustformers_pl.continual.contributions import Measure
    from trustformers_pl.continual.layouts import Layout
    from trustformers_pl.continual.terms import Terms

logger = logging.getLogger(__name__)
LIMIT = 32 * 2**20
"""Bytes that the gradients of one parameter formed at once may take, where not stated otherwise."""


class PerSample:
    """Adds up measured per-sample gradients, batch by batch.

    With FSDP2 each rank has the sums of its own samples, in whole tensors, to be added over ranks. Batches must then
    have the same shapes on all ranks, as every rank must take part in each backward pass; and a parameter that is used
    only inside a custom `autograd.Function` is not found out there, and gets 0.

    Args:
        module: Whose trainable parameters are meant. It runs in evaluation mode: no dropout, running statistics.
        losses: `losses(outputs, batch)`, each sample's loss (B,), or (K, B): the measures of K losses are added.
        measure: `torch.square` or `torch.abs`.
        forward: `forward(batch)` makes the outputs; by default the module itself does.
        limit: Most bytes of per-sample gradients of one parameter that are formed at once (at least one sample's).
        check: Compare with autograd, as the module docstring of this file says. Without, a parameter must be used
            only where torch's functions see it, and samples must be independent and in the first dimension.

    Attributes:
        totals: Name of a trainable parameter -> the sum so far, in its shape, at least in float32.
        samples: How many samples were added.
        slow: Names of parameters that are computed sample by sample.
    """

    def __init__(
        self,
        module: nn.Module,
        losses: Callable[[Any, Any], Tensor],
        measure: Measure,
        *,
        forward: Callable[[Any], Any] | None = None,
        limit: int = LIMIT,
        check: bool = True,
    ) -> None:
        self.totals = {
            name: torch.zeros(p.shape, dtype=wide(p.dtype), device=p.device) for name, p in _trainable(module).items()
        }
        self.samples = 0
        self.slow: set[str] = set()
        self._module, self._forward, self._losses, self._measure = module, forward or module, losses, measure
        self._limit, self._check = limit, check
        self._verified: dict[Any, tuple[Layout, ...]] = {}
        self._in_graph: dict[str, nn.Parameter] = {}

    def add(self, batch: Any) -> None:
        """Add the samples of a batch.

        Raises:
            ValueError: The losses are not one a sample, or depend on no parameter.
        """
        with evaluating(self._module), torch.enable_grad():
            guess = _samples(batch)
            losses, uses = self._recorded(batch, guess)
            if guess != losses.shape[-1:].numel():
                losses, uses = self._recorded(batch, losses.shape[-1:].numel())
            if losses.dim() not in (1, 2) or not losses.requires_grad:
                raise ValueError(f"losses must be (B,) or (K, B) and have a gradient, not {tuple(losses.shape)}")
            with torch.autocast(losses.device.type, enabled=False):
                self._add(losses.reshape(-1, losses.shape[-1]), uses)
        self.samples += losses.shape[-1]

    def _recorded(self, batch: Any, samples: int | None) -> tuple[Tensor, Uses]:
        with Uses(self._module, samples) as uses:
            return self._losses(self._forward(batch), batch), uses

    def _add(self, losses: Tensor, uses: Uses) -> None:
        """Add the measures of K losses (K, B)."""
        self._mark(uses.without_rule, "an operation without a rule uses it")
        self._mark({n for n, of in uses.of.items() if not all(u.unchanged for u in of)}, "its input changes in place")
        self._in_graph = uses.in_graph
        batch = UsesOfBatch(uses.of, losses.shape[1])
        fast = self._layouts(losses[0], batch)
        slow = [name for name in self.totals if name in self.slow]
        folds: dict[str, tuple[Terms, Tensor]] = {}
        for number, row in enumerate(losses, start=1):
            upstream = batch.upstream(row.sum(), [*fast], keep=bool(slow) or number < len(losses))
            for name, layouts in fast.items():
                terms = batch.terms(name, layouts, upstream, self.totals[name].dtype)
                squares = terms.squares_of_outputs(self._measure) if len(losses) > 1 else None
                if squares is None:
                    self._add_fast(name, terms)
                else:
                    folds[name] = terms, squares + folds[name][1] if name in folds else squares
            self._add_slow(row, slow)
        for name, (terms, squares) in folds.items():
            self.totals[name] += terms.folded(squares, self._measure)

    def _layouts(self, losses: Tensor, batch: UsesOfBatch) -> dict[str, tuple[Layout, ...]]:
        """Where the samples stand in each use of each parameter that is not slow."""
        choices = {name: batch.choices(name) for name in self.totals if name not in self.slow}
        self._mark({name for name, some in choices.items() if not some}, "samples are in no known dimension of a use")
        if not self._check:
            return {name: some[0] for name, some in choices.items() if some}
        keys = {name: (name, *some) for name, some in choices.items() if some}
        new = [name for name, key in keys.items() if key not in self._verified]
        agreed = self._verify(new, losses, batch, choices) if new else {}
        self._verified |= {keys[name]: layouts for name, (layouts, sure) in agreed.items() if sure}
        tried = {name: layouts for name, (layouts, _) in agreed.items()}
        return {n: tried[n] if n in tried else self._verified[key] for n, key in keys.items() if n not in self.slow}

    def _verify(
        self, names: list[str], losses: Tensor, batch: UsesOfBatch, choices: dict[str, list[tuple[Layout, ...]]]
    ) -> dict[str, tuple[tuple[Layout, ...], bool]]:
        """The layouts with which per-sample gradients agree with autograd's, and whether zeros did not hide others."""
        factors = torch.randn(len(losses), generator=torch.Generator().manual_seed(0), dtype=torch.float64).to(losses)
        expected = self._autograd((factors * losses).sum(), names)
        upstream = batch.upstream(losses.sum(), names, keep=True)
        agreed: dict[str, tuple[tuple[Layout, ...], bool]] = {}
        for name, gradient in zip(names, expected, strict=True):
            for layouts in choices[name]:
                terms = batch.terms(name, layouts, upstream, self.totals[name].dtype)
                if _agree(terms.weighted(factors, self._limit), gradient, terms):
                    agreed[name] = layouts, len(choices[name]) == 1 or bool(gradient is not None and gradient.any())
                    break
        self._mark(set(names) - agreed.keys(), "its per-sample gradients differ from autograd's")
        return agreed

    def _add_fast(self, name: str, terms: Terms) -> None:
        if (closed := terms.closed(self._measure)) is not None:
            self.totals[name] += closed
            return
        for chunk, _ in terms.formed(self._limit):
            self.totals[name] += self._measure(chunk).sum(0)

    def _add_slow(self, losses: Tensor, names: list[str]) -> None:
        for loss in losses if names else ():
            for name, gradient in zip(names, self._autograd(loss, names), strict=True):
                if gradient is not None:
                    self.totals[name] += self._measure(gradient.to(self.totals[name].dtype))

    def _autograd(self, loss: Tensor, names: list[str]) -> tuple[Tensor | None, ...]:
        inputs = [self._in_graph[name] for name in names]
        return torch.autograd.grad(loss, inputs, retain_graph=True, allow_unused=True)

    def _mark(self, names: set[str], reason: str) -> None:
        for name in sorted((names - self.slow) & self.totals.keys()):
            logger.info("%s: its per-sample gradients are computed one by one: %s", name, reason)
            self.slow.add(name)


def wide(dtype: torch.dtype) -> torch.dtype:
    """The type to add in: at least float32."""
    return torch.promote_types(dtype, torch.float32)


def _samples(batch: Any) -> int | None:
    """The first dimension of the batch's first tensor: a guess, which the losses confirm."""
    leaves = tree_leaves(dict(batch) if isinstance(batch, Mapping) else batch)
    return next((len(leaf) for leaf in leaves if isinstance(leaf, Tensor) and leaf.dim()), None)


def _trainable(module: nn.Module) -> dict[str, nn.Parameter]:
    return {name: parameter for name, parameter in module.named_parameters() if parameter.requires_grad}


def _agree(found: Tensor | None, expected: Tensor | None, terms: Terms) -> bool:
    """Whether two gradients are equal but for rounding, autograd's own too; None is zero."""
    one, other = (torch.zeros(()) if gradient is None else gradient for gradient in (found, expected))
    eps = torch.finfo(terms.precision()).eps
    relative, bound = (1e4 * eps, 10 * eps) if eps < 1e-4 else (0.05, 0.1 * eps)
    return bool((one - other).norm() <= relative * other.float().norm() + bound * terms.scale())
