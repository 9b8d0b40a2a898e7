"""A reservoir that keeps classes balanced while the stream does not."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, Any

from trustformers_pl.continual.memory import NOWHERE, draw

if TYPE_CHECKING:
    from collections.abc import Mapping


class ClassBalancingReservoir:
    """Chrysakis & Moens 2020, "Online Continual Learning from Imbalanced Data", Algorithm 1 (CBRS).

    While there is room every sample is stored. Then a sample of a class that was never the largest takes the place of
    a random one of the largest class; any other one takes the place of a random one of its own class, with probability
    (stored of it) / (seen of it): within a class, the memory is a uniform draw.

    Args:
        capacity: Slots.
        seed: Of the draws, each of which follows from it and the number of samples that came before.

    Attributes:
        labels: The class in each slot in use.
        seen: Class -> how many samples of it came.
        full: Classes that were the largest once the memory was full.
    """

    def __init__(self, capacity: int, *, seed: int) -> None:
        self.capacity = capacity
        self.seed = seed
        self.labels: list[int] = []
        self.seen: Counter[int] = Counter()
        self.full: set[int] = set()
        self._stored: Counter[int] = Counter()

    def place(self, label: int) -> int:
        """Take one more sample of the stream.

        Args:
            label: Its class.

        Returns:
            Its slot, -1 where it is not kept.
        """
        number = self.seen.total()
        self.seen[label] += 1
        slot = len(self.labels) if len(self.labels) < self.capacity else self._replaced(label, number)
        if slot == len(self.labels):
            self.labels.append(label)
            self._stored[label] += 1
        elif slot != NOWHERE:
            self._stored[self.labels[slot]] -= 1
            self._stored[label] += 1
            self.labels[slot] = label
        if len(self.labels) == self.capacity:
            self.full |= set(self._largest())
        return slot

    def _replaced(self, label: int, number: int) -> int:
        if label not in self.full:
            largest = self._largest()
            return self._one_of(largest[draw(len(largest), self.seed, "largest", number)], number)
        accepted = draw(self.seen[label], self.seed, "accept", number) < self._stored[label]
        return self._one_of(label, number) if accepted else NOWHERE

    def _one_of(self, label: int, number: int) -> int:
        slots = [slot for slot, one in enumerate(self.labels) if one == label]
        return slots[draw(len(slots), self.seed, "slot", number)]

    def _largest(self) -> list[int]:
        most = max(self._stored.values())
        return sorted(label for label, count in self._stored.items() if count == most)

    def state_dict(self) -> dict[str, Any]:
        """What a resume needs: plain values."""
        return {"labels": list(self.labels), "seen": dict(self.seen), "full": sorted(self.full)}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from `state_dict`; keys that were written as strings are read too."""
        self.labels, self.full = list(state["labels"]), set(state["full"])
        self.seen = Counter({int(label): count for label, count in state["seen"].items()})
        self._stored = Counter(self.labels)
