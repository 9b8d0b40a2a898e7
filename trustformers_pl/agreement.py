"""Do all ranks run the same thing? They compare recipe, versions and order before the first step."""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING

import torch

from trustformers_pl.errors import RefusedError
from trustformers_pl.recipe.places import flatten

if TYPE_CHECKING:
    from trustformers_pl.plan import Plan

Statement = tuple[str, str]


def statements(plan: Plan) -> list[Statement]:
    """What must be equal on all ranks: each value, and the features in order with their packages' versions."""
    values = [(key, repr(leaf.value)) for key, leaf in sorted(flatten(plan.resolved).items())]
    offers = [plan.offers[plugin.name] for plugin in plan.plugins]
    features = [(f"feature {n}", f"{o.name} of {o.package} {o.version}") for n, o in enumerate(offers, 1)]
    return [*values, *features]


def digest(own: list[Statement]) -> int:
    """63 bits of the statements' SHA-256."""
    return int.from_bytes(hashlib.sha256(repr(own).encode()).digest()[:8], "big") >> 1


def compare(own: list[Statement]) -> None:
    """Stop all ranks with the difference if they do not agree; nothing happens without a process group.

    Raises:
        RefusedError: On every rank, naming the first difference.
    """
    if not (torch.distributed.is_available() and torch.distributed.is_initialized()):
        return
    mine = digest(own)
    if _equal_everywhere(mine):
        return
    everyone: list[list[Statement]] = [[] for _ in range(torch.distributed.get_world_size())]
    torch.distributed.all_gather_object(everyone, own)
    raise RefusedError(_difference(everyone))


def _equal_everywhere(mine: int) -> bool:
    device = "cuda" if torch.distributed.get_backend() == "nccl" else "cpu"
    both = torch.tensor([mine, -mine], device=device)
    torch.distributed.all_reduce(both, op=torch.distributed.ReduceOp.MAX)
    return bool(both[0] == -both[1])


def _difference(everyone: list[list[Statement]]) -> str:
    first = dict(everyone[0])
    for rank, other in enumerate(map(dict, everyone)):
        for key in dict.fromkeys([*first, *other]):
            if first.get(key) != other.get(key):
                return (
                    f"rank 0 and rank {rank} do not run the same thing: {key} is {first.get(key, 'not there')} and "
                    f"{other.get(key, 'not there')}; start all ranks with the same recipe and the same packages"
                )
    return "the ranks do not run the same thing; start all of them with the same recipe and the same packages"
