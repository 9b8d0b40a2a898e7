"""The data phase of a memory: a function that the loader calls, which has its memory from a callback."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from trustformers_pl.errors import RefusedError

if TYPE_CHECKING:
    from collections.abc import Callable

    from lightning import Trainer

    Mix = Callable[[Any, int, int], Any]


class ReplayedRows:
    """The function of the phase MIX: a batch, with rows of the memory at its end.

    A recipe builds the loader and the callbacks apart; the callback finds this one when training starts.

    Attributes:
        mix: `(batch, epoch, step) -> batch` of the callback with the memory; None before training.
    """

    mix: Mix | None = None

    def __call__(self, batch: Any, epoch: int, step: int, seed: int) -> Any:
        """The batch with what is replayed.

        Raises:
            RefusedError: No callback has taken this up.
        """
        del seed
        if self.mix is None:
            raise RefusedError(
                "replay: a batch was fetched before training began, and no memory is there: the training data have no "
                "length, or the Trainer has no callback that keeps samples; give both"
            )
        return self.mix(batch, epoch, step)

    def __getstate__(self) -> dict[str, Any]:
        return {}  # to a process that loads batches nothing goes: there is no mixing there


def take_up(trainer: Trainer, mix: Mix | None) -> None:
    """Let the training loader mix with this function; with None, with nothing any more.

    Raises:
        RefusedError: The loader mixes nothing, or cannot say where an epoch ends and looks ahead.
    """
    combined = trainer.fit_loop._combined_loader
    loaders = [] if combined is None else combined.flattened
    found = [
        (loader, one) for loader in loaders for one in getattr(loader, "mixes", ()) if isinstance(one, ReplayedRows)
    ]
    if mix is not None:
        if not found:
            raise RefusedError(
                "replay: the training loader mixes nothing in; give "
                "`ResumableLoader(loader, seed=0, phases=DataPhases(mix=(ReplayedRows(),)))`"
            )
        _refuse_without_length([loader for loader, _ in found])
    for _, one in found:
        one.mix = mix


def _refuse_without_length(loaders: list[Any]) -> None:
    for loader in loaders:
        try:
            len(loader)
        except (TypeError, NotImplementedError) as error:
            # Batches would be fetched before the ones before them were trained on: a resumed run's memory is another.
            raise RefusedError("replay: the training data have no length; give a dataset with one") from error
