"""Exemplars of a task that has ended: chosen by herding, class by class, on the features of the model as it is."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch

from trustformers_pl.continual.asking import task_batches, undisturbed
from trustformers_pl.continual.memory import herding, quotas
from trustformers_pl.continual.rows import labels_of, rows_of

if TYPE_CHECKING:
    from lightning.pytorch import LightningModule, Trainer
    from torch import Tensor

    from trustformers_pl.continual.store import Store

    Rows = dict[str, Tensor]


def chosen_exemplars(
    trainer: Trainer, module: LightningModule, task: int, store: Store, groups: list[list[int]]
) -> tuple[Rows, list[list[int]]]:
    """What the memory holds after a task: equal shares of all (task, class) groups, each in the order of its choice.

    Rebuffi et al. 2017, "iCaRL", Algorithms 4 and 5: older groups give up their last choices. Features are those of the
    module's method `features(batch)` (B, d) where it has one, and its outputs otherwise.

    Args:
        trainer: Whose callback `Tasks` gives the task's training data.
        module: As it is at the end of the task.
        task: That has ended.
        store: The memory so far, group by group.
        groups: (task, class, number of samples) of each group in it.

    Returns:
        The rows, and their groups.
    """
    features, labels, rows = _features(trainer, module, task)
    classes = sorted(set(labels.tolist()))
    members = [(labels == label).nonzero().flatten() for label in classes]
    shares = quotas([*(group[2] for group in groups), *map(len, members)], store.capacity_for(rows))
    kept = _shortened(groups, shares[: len(groups)])
    new = [of[herding(features[of], share)] for of, share in zip(members, shares[len(groups) :], strict=True)]
    old = store.read(kept) if len(kept) else {name: value[:0] for name, value in rows.items()}
    merged = {name: torch.cat([old[name], rows[name][torch.cat(new)]]) for name in rows}
    before = [[*group[:2], share] for group, share in zip(groups, shares, strict=False)]
    return merged, before + [[task, label, len(own)] for label, own in zip(classes, new, strict=True)]


def _shortened(groups: list[list[int]], shares: list[int]) -> Tensor:
    """The slots of the first choices of each group."""
    slots: list[int] = []
    start = 0
    for (_, _, number), share in zip(groups, shares, strict=True):
        slots.extend(range(start, start + share))
        start += number
    return torch.tensor(slots, dtype=torch.int64)


def _features(trainer: Trainer, module: LightningModule, task: int) -> tuple[Tensor, Tensor, Rows]:
    compute: Any = getattr(module, "features", module)
    features, kept = [], []
    with undisturbed(trainer, module) as to_device:
        for batch, is_own in task_batches(trainer, task, "replay: keep: herding"):
            found = compute(to_device(batch))
            if is_own:
                kept.append(rows_of(batch))
                features.append(found.flatten(1).float().cpu())
    rows = {name: torch.cat([one[name] for one in kept]) for name in kept[0]}
    return torch.cat(features), labels_of(rows), rows
