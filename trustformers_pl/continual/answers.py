"""Answers that a network gave once, found again by the content of the samples."""

from __future__ import annotations

from hashlib import blake2b
from typing import TYPE_CHECKING, Any

import torch
import torch.distributed as dist
from torch import Tensor

from trustformers_pl.continual.asking import task_batches, undisturbed
from trustformers_pl.continual.rows import rows_of
from trustformers_pl.errors import RefusedError
from trustformers_pl.gathering import rank_and_world_size

if TYPE_CHECKING:
    from collections.abc import Mapping

    from lightning.pytorch import LightningModule, Trainer


class CachedAnswers:
    """Logits by sample.

    Args:
        places: Digest of a sample's tensors -> its row.
        logits: (N, ..., C).
    """

    def __init__(self, places: Mapping[str, int], logits: Tensor) -> None:
        self.places, self.logits = dict(places), logits

    def __call__(self, batch: Any) -> Tensor:
        """The logits of a batch.

        Raises:
            RefusedError: One of its samples is not among those that were asked for.
        """
        rows = rows_of(batch, "lwf")
        found = [self.places.get(one) for one in digests(rows)]
        if None in found:
            raise RefusedError(
                "lwf: cache: a sample is not among those of the task when it began, as with augmentation, replayed "
                "samples or padding to the longest of a batch; use cache: false"
            )
        device = next(iter(rows.values())).device
        return self.logits[torch.tensor(found, dtype=torch.int64)].to(device)

    def state_dict(self) -> dict[str, Any]:
        """Digests and logits."""
        return {"places": dict(self.places), "logits": self.logits}


def asked(trainer: Trainer, module: LightningModule, task: int) -> CachedAnswers:
    """Ask a module about all training data of a task. Collective: ranks ask about their shares, and tell each other.

    Args:
        trainer: Whose callback `Tasks` gives the data.
        module: As it is; in evaluation mode while it is asked.
        task: From 0.
    """
    names: list[str] = []
    logits: list[Tensor] = []
    with undisturbed(trainer, module) as to_device:
        for batch, is_own in task_batches(trainer, task, "lwf: cache"):
            found = module(to_device(batch))
            if is_own:
                names += digests(rows_of(batch, "lwf"))
                logits.append(found.float().cpu())
    return _of_all_ranks(names, torch.cat(logits))


def _of_all_ranks(names: list[str], logits: Tensor) -> CachedAnswers:
    if rank_and_world_size()[1] > 1:
        parts: list[Any] = [None] * dist.get_world_size()
        dist.all_gather_object(parts, (names, logits))
        names = [name for part, _ in parts for name in part]
        logits = torch.cat([part for _, part in parts])
    return CachedAnswers({name: place for place, name in enumerate(names)}, logits)


def digests(rows: Mapping[str, Tensor]) -> list[str]:
    """BLAKE2b (16 bytes, in hexadecimal) of each row's names, types, shapes and values."""
    number = len(next(iter(rows.values())))
    hashes = [blake2b(digest_size=16) for _ in range(number)]
    for name, value in sorted(rows.items()):
        flat = value.detach().cpu().contiguous().reshape(number, -1).view(torch.uint8).numpy()
        head = f"{name} {value.dtype} {list(value.shape[1:])}".encode()
        for row, one in zip(flat, hashes, strict=True):
            one.update(head)
            one.update(row.tobytes())
    return [one.hexdigest() for one in hashes]
