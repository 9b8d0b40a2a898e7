"""Losses as sums: gradients of all micro-batches and ranks are divided once, by the count of all of them (rule A)."""

from __future__ import annotations

import math
from functools import partial
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from trustformers_pl.decomposed import LOSS
from trustformers_pl.errors import RefusedError
from trustformers_pl.term_refusals import not_counted
from trustformers_pl.window_counts import WindowCounts, products_of

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from lightning import LightningModule

    from trustformers_pl.steps import Contribution, Counted


class LossWindow:
    """The counts of one accumulation window.

    What is differentiated is the sum of the loss, over a fixed power of two that keeps its size near a mean's (the
    division is exact, so it changes no bit of the result). `close` gives the factor that makes the accumulated gradient
    that of the mean over the whole window, on all ranks, however unevenly the elements lie in it.

    That factor divides by the count of the loss, so the sum of a loss term is multiplied by its *share*: the loss's
    count over the term's own, both of the whole window on all ranks. A term that counts what the loss counts, or that
    looks at no data, has it from the counts of the micro-batch; any other, from those that `expect` was given before;
    where the window is a single contribution of each rank, from their sums.

    Attributes:
        reference: That power of two; None before the first micro-batch of the run has decided it.
    """

    def __init__(self) -> None:
        self.reference: float | None = None
        self._counts: list[dict[str, Tensor | float]] = []
        self._declared: dict[str, Counted | None] = {}
        self._expected: dict[str, Tensor] = {}
        self._closed: WindowCounts | None = None

    @property
    def is_open(self) -> bool:
        """Whether something has been weighed since the last `close`."""
        return bool(self._counts)

    def forget(self) -> None:
        """Drop what was counted: the gradients of this window will not be used."""
        self._counts, self._declared, self._expected, self._closed = [], {}, {}, None

    @property
    def weighed(self) -> int:
        """How many contributions were weighed since the last `close`."""
        return len(self._counts)

    def take_back(self, weighed: int) -> None:
        """Drop all but the first ones that were weighed: the others are computed again."""
        del self._counts[weighed:]

    def state(self) -> dict[str, Any]:
        """What was counted in the window that is open."""
        return {"counts": list(self._counts), "declared": sorted(self._declared), "expected": dict(self._expected)}

    def load_state(self, value: Mapping[str, Any], module: Any) -> None:
        """Go on counting.

        Args:
            value: From `state`.
            module: Whose loss terms say what they count.
        """
        said = {term.name: term.count for term in module.loss_terms}
        self._counts = [dict(counts) for counts in value["counts"]]
        self._declared = {name: said.get(name) for name in value["declared"]}
        self._expected = dict(value["expected"])

    def expect(self, batches: Sequence[Any], module: Any) -> None:
        """Open a window by counting it: the loss by the module's `loss_count`, terms by `LossTerm.count`.

        Args:
            batches: All micro-batches of this rank, as the loader gave them.
            module: Whose loss and terms are counted, and whose Trainer knows the other ranks.
        """
        self.forget()
        own = {LOSS: module.loss_count}
        own |= {term.name: partial(term.count, module) for term in module.loss_terms if callable(term.count)}
        with torch.no_grad():
            counts = [[as_count(count(batch)) for batch in batches] for count in own.values()]
        totals = torch.stack([torch.stack(of_one).double().sum().float().to(module.device) for of_one in counts])
        if module.trainer.world_size > 1:
            totals = sum_over_data_ranks(totals, module)
        self._expected = dict(zip(own, totals.unbind(), strict=True))

    def weigh(self, contributions: Mapping[str, Contribution], module: LightningModule) -> Tensor:
        """What to differentiate for one micro-batch of this rank.

        Args:
            contributions: The loss, under `loss`, and the loss terms by name.
            module: Whose Trainer knows the other ranks.

        Returns:
            A scalar. Its gradients, summed over the window and the data ranks and multiplied by `close`'s factor, are
            those of the mean loss plus the weighted means of the terms.

        Raises:
            RefusedError: A term would have had to be counted ahead.
        """
        loss = contributions[LOSS]
        if len(contributions) == 1:
            self._counts.append({LOSS: loss.count})
            total = loss.sum
        else:
            self._counts.append({name: part.count for name, part in contributions.items()})
            total = self._with_terms(contributions, module)
        if self.reference is None:
            count = as_count(loss.count)
            # One for all ranks, or their gradients could not be added.
            size = sum_over_data_ranks(count, module) if module.trainer.world_size > 1 else count
            self.reference = 2.0 ** round(math.log2(max(float(size), 1.0)))
        return total / self.reference

    def _with_terms(self, contributions: Mapping[str, Contribution], module: LightningModule) -> Tensor:
        self._declared.update((name, part.counted) for name, part in contributions.items())
        terms = {name: part for name, part in contributions.items() if name != LOSS}
        local = {name: as_count(part.count) for name, part in contributions.items()}
        exchanged = self._exchanged(local, module)
        total = contributions[LOSS].sum
        for name, term in terms.items():
            known = next(counts for counts in (self._expected, exchanged, local) if name in counts)
            # A term without elements has no mean: it adds nothing.
            share = (known[LOSS] / known[name]).nan_to_num(nan=0.0, posinf=0.0)
            total = total + term.weight * term.sum * share
        return total

    def _exchanged(self, local: Mapping[str, Tensor], module: LightningModule) -> dict[str, Tensor]:
        """This micro-batch's counts on all data ranks, for terms of which nothing else is known."""
        declared = {name: self._declared[name] for name in local if name not in (LOSS, *self._expected)}
        names = [name for name, counted in declared.items() if counted not in ("loss", "weights")]
        if not names:
            return {}
        if len(self._counts) > 1:
            raise RefusedError("\n".join(not_counted(name, declared[name]) for name in names))
        counts = torch.stack([local[name].to(module.device) for name in (LOSS, *names)])
        if module.trainer.world_size > 1:
            counts = sum_over_data_ranks(counts, module)
        return dict(zip((LOSS, *names), counts.unbind(), strict=True))

    def close(self, module: LightningModule) -> tuple[Tensor | None, Tensor]:
        """End the window.

        Returns:
            The factor for the accumulated gradients, None where it is known to be exactly 1, and the window's count on
            all data ranks: scalars, left on their device.
        """
        trainer = module.trainer
        several_ranks = trainer.world_size > 1
        if several_ranks or len(self._counts) > 1 or self._declared or self._expected:
            count = self._closing_count(module, several_ranks=several_ranks)
        else:  # the usual window: one micro-batch, nothing but its loss
            given = self._counts.pop()[LOSS]
            count = given if isinstance(given, Tensor) else as_count(given)
        assert self.reference is not None
        # Lightning divides each loss by the number of micro-batches, and strategies average over the data ranks.
        parts = trainer.accumulate_grad_batches * (data_ranks(module) if several_ranks else 1)
        # Looking at a count is cheap on the CPU; elsewhere it would wait for the device.
        if parts == 1 and count.is_cpu and count.item() == self.reference:
            return None, count
        return self.reference * parts / count, count

    def _closing_count(self, module: LightningModule, *, several_ranks: bool) -> Tensor:
        """The loss's count in the window; where anything was said of counts, they are kept for `verify`."""
        rows, declared, expected = self._counts, self._declared, self._expected
        self.forget()
        if expected or (any(declared.values()) and (several_ranks or len(rows) > 1)):
            counts = [[as_count(row.get(name, 0)).to(module.device) for name in declared] for row in rows]
            products = products_of(counts)
            if several_ranks:
                products = sum_over_data_ranks(products, module)
            self._closed = WindowCounts(declared, expected, products)
            return self._closed.of_loss
        of_loss = [as_count(row[LOSS]) for row in rows]
        count = of_loss[0] if len(of_loss) == 1 else torch.stack(of_loss).sum()
        return sum_over_data_ranks(count, module) if several_ranks else count

    def verify(self) -> None:
        """Compare the counts of the window that was closed last with what was said of them, once.

        Raises:
            CountError: See `WindowCounts.verify`.
        """
        closed, self._closed = self._closed, None
        if closed is not None:
            closed.verify()


def as_count(count: Tensor | float) -> Tensor:
    """A count as a float32 scalar on its device."""
    return count.float() if isinstance(count, Tensor) else torch.tensor(float(count), dtype=torch.float32)


def sum_over_data_ranks(values: Tensor, module: LightningModule) -> Tensor:
    """The sum of a tensor over the ranks that see different data; on their device."""
    strategy = module.trainer.strategy
    values = values.to(strategy.root_device)
    own = getattr(strategy, "sum_over_data_ranks", None)
    summed: Tensor = own(values) if own else strategy.reduce(values.clone(), reduce_op="sum")  # which sums in place
    return summed


def data_ranks(module: LightningModule) -> int:
    """How many ranks see different data."""
    strategy = module.trainer.strategy
    return int(getattr(strategy, "data_ranks", module.trainer.world_size))
