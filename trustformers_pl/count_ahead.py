"""Counting an accumulation window before its first forward pass, for loss terms with counts of their own."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from itertools import islice
from typing import TYPE_CHECKING, Any

from trustformers_pl.decomposed import DecomposedLoss
from trustformers_pl.term_refusals import refuse_terms

if TYPE_CHECKING:
    from lightning import Trainer
    from lightning.pytorch.loops.fetchers import _DataFetcher


class LookAhead(Iterator[Any]):
    """An iterator whose next items can be seen before they are taken.

    Args:
        source: Where items come from; nothing is taken from it before it is asked for.
    """

    def __init__(self, source: Iterator[Any]) -> None:
        self._source = source
        self._waiting: deque[Any] = deque()

    def __next__(self) -> Any:
        return self._waiting.popleft() if self._waiting else next(self._source)

    def peek(self, number: int) -> list[Any]:
        """The next items, in order; fewer than `number` where the source ends before."""
        try:
            while len(self._waiting) < number:
                self._waiting.append(next(self._source))  # no `iter` of it: Lightning's would begin anew
        except StopIteration:
            pass
        return list(islice(self._waiting, number))


class CountAhead:
    """Fetches the micro-batches of a window when it opens, and lets the module's `LossWindow` count them.

    At the end of a window nothing that was fetched is left: a checkpoint there is the same as without looking ahead.

    Args:
        trainer: That is fitting a `DecomposedLoss`.
        fetcher: Of its training batches; Lightning's counters in it go on counting the batches that were trained on.
    """

    def __init__(self, trainer: Trainer, fetcher: _DataFetcher) -> None:
        assert fetcher.iterator is not None
        self._trainer = trainer
        self._fetcher = fetcher
        self._ahead = fetcher.iterator = LookAhead(fetcher.iterator)

    def before_batch(self, batch_idx: int) -> None:
        """Count the window that begins with this batch, if one does.

        Args:
            batch_idx: Of the batch in its epoch.
        """
        number = self._trainer.accumulate_grad_batches
        if batch_idx % number:
            return
        if self._fetcher.length is not None:  # the source may have more than the epoch takes
            number = min(number, self._fetcher.length - batch_idx)
        held = getattr(self._fetcher, "batches", [])  # by Lightning, where only that tells which batch is the last
        fetched = [*held, *self._ahead.peek(number - len(held))][:number]
        batches = [batch for batch, _, _ in fetched if batch is not None]
        module: Any = self._trainer.lightning_module
        if batches:
            module.loss_window.expect(batches, module)


def count_ahead(trainer: Trainer, fetcher: _DataFetcher) -> CountAhead | None:
    """Make ready for an epoch, or the rest of one: what counts its windows ahead, None where nothing has to.

    A window that was left open, as an epoch was left in the middle of it, is forgotten with its gradients.

    Raises:
        RefusedError: There are loss terms whose mean could not be found (see `refuse_terms`).
    """
    module = trainer.lightning_module
    if not isinstance(module, DecomposedLoss) or module.loss_window is None:
        return None
    module.loss_window.forget()
    refuse_terms(module, trainer.accumulate_grad_batches)
    if trainer.accumulate_grad_batches == 1 or not any(callable(term.count) for term in module.loss_terms):
        return None
    return CountAhead(trainer, fetcher)
