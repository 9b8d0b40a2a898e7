"""What the memories of some ranks become on another number of ranks."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch

from trustformers_pl.continual.memory import balanced, quotas
from trustformers_pl.continual.rows import labels_of
from trustformers_pl.data.order import counter_seed

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from torch import Tensor

    Rows = Mapping[str, Tensor]


def share(total: int, rank: int, ranks: int) -> int:
    """A rank's part of a number: all of them add up to it."""
    return total * (rank + 1) // ranks - total * rank // ranks


def together(parts: Sequence[Rows]) -> dict[str, Tensor]:
    """The rows of all ranks, in their order; nothing if there are none."""
    found = [rows for rows in parts if rows and len(next(iter(rows.values())))]
    return {name: torch.cat([rows[name] for rows in found]) for name in found[0]} if found else {}


def of_uniform_draws(
    kept: int, seen: Sequence[int], capacity: int, rank: int, ranks: int, seed: int
) -> tuple[Tensor, dict[str, Any]]:
    """A rank's part of uniform draws of several streams that were equally long.

    The streams together are one, of which all that is kept is a uniform draw: each sample was kept with the same
    probability. A random part of it is one, too, of a part of the stream. Algorithm R goes on from that as it would
    have come to it: the probabilities of old and of new samples stay equal.

    Args:
        kept: Samples that all ranks kept.
        seen: How many came to each old rank.
        capacity: Slots of a new rank.
        rank: The new rank.
        ranks: How many new ones.
        seed: Of the run.

    Returns:
        Which of all samples the rank keeps: (at most capacity,) int64; and the state of its `UniformDraw`.
    """
    order = torch.randperm(kept, generator=torch.Generator().manual_seed(counter_seed(seed, "shared out", sum(seen))))
    first = kept * rank // ranks
    own = order[first : first + share(kept, rank, ranks)][:capacity]
    came = max(share(sum(seen), rank, ranks), len(own))
    # Slots that are more than what was kept stay empty: what was dropped would be missing in them.
    return own, {"seen": came, "capacity": capacity if sum(seen) == kept else len(own)}


def of_balanced_draws(
    rows: Rows, states: Sequence[Mapping[str, Any]], capacity: int, rank: int, ranks: int, seed: int
) -> tuple[Tensor, dict[str, Any]]:
    """A rank's part of class-balancing reservoirs: as many of each class as can be.

    Args:
        rows: Of all ranks.
        states: Of each old rank's `ClassBalancingReservoir`.
        capacity: As for `of_uniform_draws`.
        rank: As for `of_uniform_draws`.
        ranks: As for `of_uniform_draws`.
        seed: As for `of_uniform_draws`.

    Returns:
        As `of_uniform_draws`.
    """
    labels = labels_of(rows)
    dealt = balanced(labels, len(labels), seed=seed)[rank::ranks]
    own = dealt[balanced(labels[dealt], capacity, seed=seed)]
    stored = labels[own].bincount(minlength=1).tolist()
    came: dict[int, int] = {}
    for state in states:
        for label, number in state["seen"].items():
            came[int(label)] = came.get(int(label), 0) + number
    seen = {label: max(share(number, rank, ranks), *stored[label : label + 1], 0) for label, number in came.items()}
    full = sorted({label for state in states for label in state["full"]})
    return own, {"labels": labels[own].tolist(), "seen": seen, "full": full}


def of_exemplars(
    groups: Sequence[Sequence[Sequence[int]]], capacity: int, rank: int, ranks: int
) -> tuple[Tensor, list[list[int]]]:
    """A rank's part of exemplars: of each (task, class) those of all ranks, first choices first.

    Args:
        groups: Of each old rank, in the order of its rows: (task, class, number).
        capacity: Slots of a new rank.
        rank: The new rank.
        ranks: How many new ones.

    Returns:
        Which of all rows, one old rank after the other, the rank keeps; and its groups.
    """
    choices: dict[tuple[int, int], list[tuple[int, int]]] = {}  # of a group: how early a choice, and its row
    row = 0
    for of_rank in groups:
        for task, label, number in of_rank:
            choices.setdefault((task, label), []).extend((place, row + place) for place in range(number))
            row += number
    dealt = {group: [index for _, index in sorted(of)][rank::ranks] for group, of in sorted(choices.items())}
    limits = quotas([*map(len, dealt.values())], capacity)
    own = [of[:limit] for of, limit in zip(dealt.values(), limits, strict=True)]
    indices = torch.tensor([index for of in own for index in of], dtype=torch.int64)
    return indices, [[*group, len(of)] for group, of in zip(dealt, own, strict=True)]
