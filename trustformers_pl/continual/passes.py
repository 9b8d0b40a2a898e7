"""Passes over data beside the training, on all ranks: shares of equal shape, the model as it is, sums over ranks."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar

import torch
from torch import Tensor

from trustformers_pl.continual.labels import LABELS, of_batch
from trustformers_pl.data.ranks import data_ranks
from trustformers_pl.errors import RefusedError

if TYPE_CHECKING:
    from lightning.pytorch import LightningModule, Trainer

    from trustformers_pl.data.loader import ResumableLoader


Batch = TypeVar("Batch")


class Part(NamedTuple):
    """A rank's part of a batch.

    Attributes:
        batch: On the model's device.
        real: (B,) bool, false for samples that only fill up: every rank has as many, as sharded weights ask for.
        indices: (B,) int64 on the CPU, of the samples in their dataset.
    """

    batch: Any
    real: Tensor
    indices: Tensor


def parts(
    trainer: Trainer, loader: ResumableLoader, indices: Tensor, batch_size: int, name: str | None = None
) -> Iterator[Part]:
    """This rank's share of some samples, in batches of which every rank has as many of the same sizes.

    Args:
        trainer: Of the run.
        loader: Of the samples.
        indices: (N,) int64, the same on all ranks.
        batch_size: Samples of a rank's batch.
        name: Under which progress is shown; not, where it is None.
    """
    rank, ranks = data_ranks(trainer)
    missing = -len(indices) % ranks
    padded = torch.cat([indices, indices[:1].expand(missing)])
    own, real = padded[rank::ranks], (torch.arange(len(padded)) < len(indices))[rank::ranks]
    batches = shown(trainer, name, loader.of_samples(own, batch_size), -(-len(own) // batch_size))
    for number, batch in enumerate(batches):
        of = slice(number * batch_size, (number + 1) * batch_size)
        moved = trainer.strategy.batch_to_device(trainer.precision_plugin.convert_input(batch))
        yield Part(moved, real[of].to(trainer.strategy.root_device), own[of])


def shown(trainer: Trainer, name: str | None, batches: Iterable[Batch], total: int | None = None) -> Iterator[Batch]:
    """The batches of a pass, of which callbacks are told that show progress.

    Those are callbacks with `on_pass_start(trainer, name, total)`, `on_pass_batch_end()` and `on_pass_end()`.

    Args:
        trainer: Whose callbacks.
        name: What the pass is for; None tells nobody.
        batches: Given on as they are.
        total: How many, if that is known.
    """
    callbacks: list[Any] = trainer.callbacks  # type: ignore[attr-defined]
    told = [one for one in callbacks if name is not None and hasattr(one, "on_pass_start")]
    for one in told:
        one.on_pass_start(trainer, name, total)
    try:
        for batch in batches:
            yield batch
            for one in told:
                one.on_pass_batch_end()
    finally:
        for one in told:
            one.on_pass_end()


def logits_of(outputs: Any) -> Tensor:
    """The logits among what a module's `forward` gives: the tensor itself, or `logits` of an object or mapping.

    Raises:
        RefusedError: There are none.
    """
    if isinstance(outputs, Mapping):
        outputs = outputs.get("logits")
    found = getattr(outputs, "logits", outputs)
    if not isinstance(found, Tensor):
        cause = f"forward() gives {type(outputs).__name__}"
        raise RefusedError(f"tasks: accuracies and importances need logits (B, ..., C), and {cause}; return those")
    return found


def masked(module: LightningModule, outputs: Any, batch: Any) -> Tensor:
    """The logits that count: in a task-incremental run, outputs of other tasks are -inf."""
    of_task = getattr(module, "of_own_task", None)
    return logits_of(outputs if of_task is None else of_task(outputs, batch))


def forward(trainer: Trainer, module: LightningModule, batch: Any) -> Tensor:
    """The logits (B, ..., C) that count, under the run's precision."""
    with trainer.precision_plugin.forward_context():
        return masked(module, module(batch), batch)


@torch.no_grad()
def right_and_all(logits: Tensor, batch: Any, real: Tensor, field: str = LABELS) -> Tensor:
    """How many labels are the likeliest class, and how many there are; -100 and what fills up are left out: (2,)."""
    labels = of_batch(batch, field).to(logits.device)
    counted = (labels != -100) & real.view(-1, *[1] * (labels.dim() - 1))
    return torch.stack([((logits.argmax(-1) == labels) & counted).sum(), counted.sum()]).double()
