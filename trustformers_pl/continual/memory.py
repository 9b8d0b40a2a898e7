"""Which samples a memory of fixed size keeps, as pure functions: the same numbers in, the same samples out.

Randomness follows from (seed, how many samples came before), so a resumed run has nothing to restore but that number.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from trustformers_pl.data.order import counter_seed
from trustformers_pl.errors import RefusedError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

NOWHERE = -1
"""The slot of a sample that is not kept."""


def row_bytes(row: Mapping[str, Tensor]) -> int:
    """How many bytes one sample takes in a memory.

    Args:
        row: Each of its tensors, without a batch dimension.
    """
    return sum(value.numel() * value.dtype.itemsize for value in row.values())


def affordable(budget: int, row: Mapping[str, Tensor], *, section: str = "replay") -> int:
    """How many samples a budget holds: the greatest whole number, nothing is added to a sample's own bytes.

    Args:
        budget: In bytes.
        row: One sample, as for `row_bytes`.
        section: Named in the error.

    Raises:
        RefusedError: Not even one.
    """
    size = row_bytes(row)
    if not 0 < size <= budget:
        raise RefusedError(f"{section}: a sample takes {size} bytes and the budget is {budget}; raise it")
    return budget // size


def reservoir(seen: int, number: int, capacity: int, *, seed: int) -> Tensor:
    """Where the next samples of a stream go, so that the memory is at any time a uniform draw of all that came.

    Vitter 1985, "Random Sampling with a Reservoir", Algorithm R.

    Args:
        seen: Samples that came before.
        number: Samples that come now.
        capacity: Slots.
        seed: Of the draws.

    Returns:
        (number,) int64, the slot of each, -1 where it is not kept. A later one may take the slot of an earlier one.
    """
    return torch.tensor([_slot(counter, capacity, seed) for counter in range(seen, seen + number)], dtype=torch.int64)


def _slot(seen: int, capacity: int, seed: int) -> int:
    slot = seen if seen < capacity else draw(seen + 1, seed, "reservoir", seen)
    return slot if slot < capacity else NOWHERE


def draw(below: int, *coordinates: int | str) -> int:
    """A number in [0, below) that follows from its coordinates; uneven by less than below / 2**64."""
    return counter_seed(*coordinates) % below


def drawn(filled: int, number: int, *coordinates: int | str) -> Tensor:
    """Slots to replay: without repetition, as long as there are enough.

    Args:
        filled: Slots in use.
        number: How many to draw.
        coordinates: From which the draw follows, such as a seed and the step.

    Returns:
        (number,) int64; (0,) of an empty memory.
    """
    if not filled:
        return torch.zeros(0, dtype=torch.int64)
    generator = torch.Generator().manual_seed(counter_seed(*coordinates))
    rounds = [torch.randperm(filled, generator=generator) for _ in range(-(-number // filled))]
    return torch.cat([*rounds, torch.zeros(0, dtype=torch.int64)])[:number]


def quotas(available: Sequence[int], capacity: int) -> list[int]:
    """How many samples each class may keep: as equal as can be, what small classes leave goes to the others.

    Args:
        available: Samples of each class.
        capacity: Slots.

    Returns:
        One number a class, at most what is available; they add up to the capacity, or to all samples. Of equal classes
        the first ones get what does not divide.
    """
    left, found = capacity, [0] * len(available)
    smallest_first = sorted(range(len(available)), key=lambda one: (available[one], -one))
    for rank, one in enumerate(smallest_first):
        found[one] = min(available[one], left // (len(available) - rank))
        left -= found[one]
    return found


def balanced(labels: Tensor, capacity: int, *, seed: int) -> Tensor:
    """A random draw with as many samples of each class as of any other, as far as there are.

    Args:
        labels: (N,) int64.
        capacity: Slots.
        seed: Of the draw.

    Returns:
        (at most capacity,) int64 indices, class by class.
    """
    members = _members(labels)
    chosen = []
    for (label, indices), quota in zip(members.items(), quotas([*map(len, members.values())], capacity), strict=True):
        generator = torch.Generator().manual_seed(counter_seed(seed, "balanced", label))
        chosen.append(indices[torch.randperm(len(indices), generator=generator)[:quota]])
    return torch.cat(chosen) if chosen else labels.new_zeros(0)


def _members(labels: Tensor) -> dict[int, Tensor]:
    return {label: (labels == label).nonzero().flatten() for label in sorted(set(labels.tolist()))}


def herding(features: Tensor, number: int) -> Tensor:
    """The samples whose mean stays nearest to the mean of all, in order: the first m are the choice for any m.

    Rebuffi et al. 2017, "iCaRL", Algorithm 4, on features of length 1, no sample twice (as in the authors' code):
    p_k = argmin_x ||mu - (phi(x) + sum_{j<k} phi(p_j)) / k||.

    Args:
        features: (N, d), of one class.
        number: How many to choose, at most N.

    Returns:
        (number,) int64 indices; the first of equal ones.
    """
    unit = torch.nn.functional.normalize(features.double(), dim=1)
    mean, total = unit.mean(0), torch.zeros_like(unit[:1]).sum(0)
    taken = torch.zeros(len(unit), dtype=torch.bool, device=unit.device)
    chosen = []
    for k in range(1, min(number, len(unit)) + 1):
        distances = (mean - (unit + total) / k).square().sum(1)
        best = int(distances.masked_fill(taken, torch.inf).argmin())
        taken[best] = True
        total = total + unit[best]
        chosen.append(best)
    return torch.tensor(chosen, dtype=torch.int64)
