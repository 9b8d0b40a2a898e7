"""Passes over data beside the training, on all ranks: shares of equal shape, the model as it is, sums over ranks."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import Tensor

from trustformers_pl.continual.labels import LABELS, of_batch
from trustformers_pl.data.ranks import data_ranks
from trustformers_pl.errors import RefusedError

if TYPE_CHECKING:
    from lightning.pytorch import LightningModule, Trainer

    from trustformers_pl.data.loader import ResumableLoader


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


def parts(trainer: Trainer, loader: ResumableLoader, indices: Tensor, batch_size: int) -> Iterator[Part]:
    """This rank's share of some samples, in batches of which every rank has as many of the same sizes.

    Args:
        trainer: Of the run.
        loader: Of the samples.
        indices: (N,) int64, the same on all ranks.
        batch_size: Samples of a rank's batch.
    """
    rank, ranks = data_ranks(trainer)
    missing = -len(indices) % ranks
    padded = torch.cat([indices, indices[:1].expand(missing)])
    own, real = padded[rank::ranks], (torch.arange(len(padded)) < len(indices))[rank::ranks]
    for number, batch in enumerate(loader.of_samples(own, batch_size)):
        of = slice(number * batch_size, (number + 1) * batch_size)
        moved = trainer.strategy.batch_to_device(trainer.precision_plugin.convert_input(batch))
        yield Part(moved, real[of].to(trainer.strategy.root_device), own[of])


@contextmanager
def evaluating(module: LightningModule) -> Iterator[None]:
    """No dropout, running statistics as they are; afterwards each submodule is in the mode that it was in."""
    training = [one for one in module.modules() if one.training]
    module.eval()
    try:
        yield
    finally:
        for one in training:
            one.training = True


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
