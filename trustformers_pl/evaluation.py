"""What an evaluation needs: a module and data that can, said in one line before anything is loaded; the right step."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING, Any

from trustformers_pl.compose import user_class
from trustformers_pl.errors import RefusedError

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from lightning import Trainer

    from trustformers_pl.run import Run


def refuse_unable(run: Run, step: str, loader: str) -> None:
    """Refuse a run whose module lacks a step, or whose data (and module) lack its loader.

    Args:
        run: The run.
        step: `test_step`, `predict_step`.
        loader: `test_dataloader`, `predict_dataloader`.

    Raises:
        RefusedError: One of the two is missing.
    """
    if not _has(run.module, step):
        name = user_class(type(run.module)).__name__
        raise RefusedError(
            f"{run.assembly.plan.place('model')}: {name} has no {step}(); write one, or use another model"
        )
    if not any(_has(source, loader) for source in (run.datamodule, run.module)):
        data = user_class(type(run.datamodule)).__name__ if run.datamodule is not None else "the module"
        raise RefusedError(f"{run.assembly.plan.place('data')}: {data} has no {loader}(); write one, or use other data")


def _has(source: Any, method: str) -> bool:
    """Whether a method is more than Lightning's own, which does nothing of use."""
    from lightning import LightningModule

    return getattr(type(source), method, None) not in (None, getattr(LightningModule, method))


def evaluating(trainer: Trainer) -> list[Any]:
    """The callbacks with an attribute `evaluates`: their state has a part in what is evaluated (averaged weights)."""
    callbacks: list[Any] = trainer.callbacks  # type: ignore[attr-defined]
    return [callback for callback in callbacks if getattr(callback, "evaluates", False)]


def chosen_path(trainer: Trainer) -> str | None:
    """The checkpoint that a callback's method `evaluated_path(trainer)` chooses; None where none does."""
    callbacks: list[Any] = trainer.callbacks  # type: ignore[attr-defined]
    chosen = (callback.evaluated_path(trainer) for callback in callbacks if hasattr(callback, "evaluated_path"))
    return next((path for path in chosen if path is not None), None)


def state_for_evaluation(trainer: Trainer, checkpoint: Mapping[str, Any]) -> list[Any]:
    """Give those callbacks their state from a checkpoint: Lightning gives callbacks back theirs in a fit alone.

    Args:
        trainer: Of the run.
        checkpoint: As it was loaded.

    Returns:
        The callbacks; each has a method `put_into(module)`, for who evaluates without a Trainer.
    """
    from trustformers_pl.state import give_back, parts

    found = evaluating(trainer)
    stored = checkpoint["loops"]["fit_loop"]["epoch_loop.state_dict"].get("parts", {})
    give_back({name: part for name, part in parts(trainer).items() if part in found}, stored, quiet=True)
    return found


@contextlib.contextmanager
def standing_at(trainer: Trainer, path: str) -> Iterator[None]:
    """Let what an evaluation logs be of the step that its checkpoint ends with, and its data of that epoch.

    Lightning leaves the counters of a Trainer that evaluates alone at 0.

    Args:
        trainer: That evaluates.
        path: The checkpoint.
    """
    io: Any = trainer.strategy.checkpoint_io
    told = io.progress_of(path) if hasattr(io, "progress_of") else io.load_checkpoint(path)
    loop: Any = trainer.fit_loop.epoch_loop
    epochs: Any = trainer.fit_loop.epoch_progress.current
    before = loop._batches_that_stepped, epochs.processed, epochs.completed
    loop._batches_that_stepped = max(told["global_step"] - 1, 0)
    epochs.processed = epochs.completed = told["epoch"]
    try:
        yield
    finally:
        loop._batches_that_stepped, epochs.processed, epochs.completed = before
