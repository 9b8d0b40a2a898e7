"""What the ranks tell each other while each writes its part of one checkpoint: a thread can do it beside the training.

It goes through the key-value store of the process group, and takes part in no collective: those are the training's.
"""

from __future__ import annotations

import functools
import json
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch.distributed as dist
from torch.distributed.distributed_c10d import PrefixStore, _get_default_store

from trustformers_pl.errors import CheckpointError

if TYPE_CHECKING:
    import threading
    from collections.abc import Callable, Iterable, Mapping
    from pathlib import Path

_SHORTEST, _LONGEST = 0.001, 0.05  # seconds between two looks
_FAREWELL = 5.0  # seconds for what does no harm if it does not come about


@dataclass(frozen=True)
class Patience:
    """How long a rank waits for another one.

    Attributes:
        seconds: While the run goes on: one may write long after another has ended.
        hurried: When the run is ending by an error, of which another rank may have died.
    """

    seconds: float = 1800.0
    hurried: float = 30.0


class Board:
    """The notes of one save, which is over when rank 0 has said how it ended.

    Args:
        number: Of the save in this process group, counted alike by all ranks.
        path: The checkpoint, for messages.
        hurry: Set when nobody has time left.
        patience: How long to wait.
    """

    def __init__(self, number: int, path: Path, hurry: threading.Event, patience: Patience) -> None:
        self.rank, self.ranks = dist.get_rank(), dist.get_world_size()
        self._store = PrefixStore(f"trustformers_pl/checkpoint/{number}", _get_default_store())
        self._path, self._hurry, self._patience = path, hurry, patience
        self._farewell = min(_FAREWELL, patience.seconds)

    def put_folder(self, folder: Path) -> None:
        """Rank 0: say where the others write."""
        self._put("folder", str(folder))

    def folder(self) -> str:
        """The others: where to write.

        Raises:
            CheckpointError: Rank 0 has failed, or says nothing.
        """
        self._wait(["folder", "end"], "rank 0 did not begin to write")
        if (failure := self._failure()) is not None:
            raise CheckpointError(failure)
        return self._get("folder")

    def report(self, told: Mapping[str, Any]) -> None:
        """The others: say what was written, or with the key `error` why it was not."""
        self._put(f"part/{self.rank}", json.dumps(told))

    def reports(self) -> dict[int, dict[str, Any]]:
        """Rank 0: what the others have said, by rank.

        Raises:
            CheckpointError: One has failed, or says nothing.
        """
        found = {}
        for rank in range(1, self.ranks):
            self._wait([f"part/{rank}"], f"rank {rank} did not write its part")
            found[rank] = json.loads(self._get(f"part/{rank}"))
            if "error" in found[rank]:
                raise CheckpointError(found[rank]["error"])
        return found

    def end(self, failure: str | None) -> None:
        """Rank 0: say how it ended."""
        self._put("end", json.dumps(failure))

    def leave(self) -> None:
        """Rank 0: let the others hear how it ended, as the store may be gone with this process; remove the notes."""
        self._until(lambda: self._asked(lambda: self._store.add("heard", 0)) >= self.ranks - 1, self._farewell)
        for key in ["folder", "end", "heard", *(f"part/{rank}" for rank in range(1, self.ranks))]:
            self._asked(functools.partial(self._store.delete_key, key))

    def wait_for_end(self) -> None:
        """The others: wait until rank 0 has published the checkpoint.

        Raises:
            CheckpointError: It was not published; in the words of the rank that failed.
        """
        self._wait(["end"], "rank 0 did not say that it was published")
        failure = self._failure()
        self._asked(lambda: self._store.add("heard", 1))
        if failure is not None:
            raise CheckpointError(failure)

    def wait_for_writers(self) -> None:
        """Rank 0, after a failure: wait a moment until no other rank writes any more."""
        parts = [f"part/{rank}" for rank in range(1, self.ranks)]
        self._until(lambda: self._there(parts), self._farewell)

    def _failure(self) -> str | None:
        failure: str | None = json.loads(self._get("end")) if self._there(["end"]) else None
        return failure

    def _wait(self, keys: list[str], complaint: str) -> None:
        if not self._until(lambda: any(self._there([key]) for key in keys), self._patience.seconds):
            raise CheckpointError(
                f"{self._path}: checkpoint not written: {complaint}; look at what that rank says; older ones are "
                "untouched"
            )

    def _until(self, done: Callable[[], bool], seconds: float) -> bool:
        """Look again and again; False when the time is up, which is shorter from when somebody is in a hurry."""
        now = time.monotonic()
        deadline, pause = now + seconds, _SHORTEST
        hurried = False
        while not done():
            if self._hurry.is_set() and not hurried:
                hurried, deadline = True, min(deadline, time.monotonic() + self._patience.hurried)
            if time.monotonic() >= deadline:
                return False
            time.sleep(pause)
            pause = min(2 * pause, _LONGEST)
        return True

    def _there(self, keys: Iterable[str]) -> bool:
        found = list(keys)
        return not found or bool(self._asked(lambda: self._store.check(found)))

    def _get(self, key: str) -> str:
        return bytes(self._asked(lambda: self._store.get(key))).decode()

    def _put(self, key: str, text: str) -> None:
        self._asked(lambda: self._store.set(key, text))

    def _asked(self, ask: Callable[[], Any]) -> Any:
        try:
            return ask()
        except RuntimeError as error:  # torch's own, when the process that has the store is gone
            raise CheckpointError(
                f"{self._path}: checkpoint not written: the ranks cannot speak to each other any more; older ones are "
                "untouched"
            ) from error
