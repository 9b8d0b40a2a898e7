"""The rules by which a memory keeps samples of a stream as they come, behind one small interface."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal, Protocol

import torch

from trustformers_pl.continual.balancing import ClassBalancingReservoir
from trustformers_pl.continual.memory import reservoir
from trustformers_pl.continual.rows import labels_of

if TYPE_CHECKING:
    from collections.abc import Mapping

    from torch import Tensor

Keep = Literal["reservoir", "balanced", "herding"]


class Keeping(Protocol):
    """Where samples that come go."""

    def place(self, rows: Mapping[str, Tensor], number: int) -> Tensor:
        """The slots of the next `number` rows: (number,) int64, -1 where one is not kept."""

    def state_dict(self) -> dict[str, Any]:
        """What a resume needs: plain values."""

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from `state_dict`."""


class UniformDraw:
    """`reservoir`: at any time a uniform draw of all that came.

    Args:
        capacity: Slots.
        seed: Of the draws.
    """

    def __init__(self, capacity: int, *, seed: int) -> None:
        self.capacity, self.seed, self.seen = capacity, seed, 0

    def place(self, rows: Mapping[str, Tensor], number: int) -> Tensor:
        """The slots of the next rows."""
        del rows
        slots = reservoir(self.seen, number, self.capacity, seed=self.seed)
        self.seen += number
        return slots

    def state_dict(self) -> dict[str, Any]:
        """How many came, and the slots."""
        return {"seen": self.seen, "capacity": self.capacity}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from `state_dict`."""
        self.seen, self.capacity = state["seen"], state.get("capacity", self.capacity)


class BalancedDraw:
    """`balanced`: a `ClassBalancingReservoir`, row by row.

    Args:
        capacity: Slots.
        seed: Of the draws.
    """

    def __init__(self, capacity: int, *, seed: int) -> None:
        self.rule = ClassBalancingReservoir(capacity, seed=seed)

    def place(self, rows: Mapping[str, Tensor], number: int) -> Tensor:
        """The slots of the next rows.

        Raises:
            DataError: They have no labels.
        """
        return torch.tensor([self.rule.place(label) for label in labels_of(rows)[:number].tolist()], dtype=torch.int64)

    def state_dict(self) -> dict[str, Any]:
        """That of the rule."""
        return self.rule.state_dict()

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from `state_dict`."""
        self.rule.load_state_dict(state)


RULES: Mapping[str, type[UniformDraw | BalancedDraw]] = {"reservoir": UniformDraw, "balanced": BalancedDraw}
"""`keep` -> the rule; `herding` keeps nothing of a stream: it chooses when a task ends."""
