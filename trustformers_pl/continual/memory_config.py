"""The keys that the sections `replay` and `der` share."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

CLAIM = "trustformers-pl:memory"
"""What both claim: a batch is added to once."""


@dataclass(frozen=True, kw_only=True)
class MemoryConfig:
    """Which samples are kept, and where."""

    capacity: int | None = None
    """Samples that are kept at most, by all ranks together; 200 where `bytes` does not say either."""
    bytes: int | None = None
    """The room for them, by all ranks together, in bytes."""
    batch: int = 32
    """Samples that are added to each batch of a rank."""
    where: Literal["memory", "disk"] = "memory"
    """Where they are kept. On disk all of the room is taken at once."""
    folder: str | None = None
    """Of the files on disk; by default `replay` in the run folder."""

    def __post_init__(self) -> None:
        """Refuse what keeps nothing."""
        if any(given is not None and given < 1 for given in (self.capacity, self.bytes)) or self.batch < 0:
            raise ValueError("capacity and bytes must be at least 1, batch must not be negative")
        if self.folder is not None and self.where == "memory":
            raise ValueError("folder is for samples on disk; add where: disk")
