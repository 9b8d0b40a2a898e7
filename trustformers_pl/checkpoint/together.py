"""What each rank does when all of them save one checkpoint, or read one."""

from __future__ import annotations

import itertools
from typing import TYPE_CHECKING, Any

from trustformers_pl.checkpoint.board import Board, Patience
from trustformers_pl.checkpoint.codec import encode
from trustformers_pl.checkpoint.finiteness import first_not_finite
from trustformers_pl.checkpoint.manifest import finite_or_not
from trustformers_pl.checkpoint.reading import read_folder
from trustformers_pl.checkpoint.shards import Leaf, Shards
from trustformers_pl.checkpoint.shared_writing import PartWrite, WholeWrite, Write, give_up_before
from trustformers_pl.checkpoint.tensorfile import pack
from trustformers_pl.checkpoint.writing import state_files
from trustformers_pl.errors import CheckpointError
from trustformers_pl.gathering import first_of_ranks, rank_and_world_size

if TYPE_CHECKING:
    import threading
    from collections.abc import Callable, Mapping, Sequence
    from pathlib import Path

    from torch import Tensor

    from trustformers_pl.checkpoint.io import Request

    Copy = Callable[[Mapping[str, Tensor]], Mapping[str, Tensor]]

# Of saves by all ranks, in this process: process groups may come and go, and their store may stay.
_saves = itertools.count()


class TogetherWriter:
    """Prepares this rank's share of saves.

    Args:
        hurry: Set when nobody has time to wait for another rank.
        patience: How long to wait otherwise.
        copy: Brings tensors into memory of their own, for writing while training goes on.
    """

    def __init__(self, hurry: threading.Event, patience: Patience, copy: Copy) -> None:
        self._hurry, self._patience, self._copy = hurry, patience, copy

    def prepare(
        self,
        path: Path,
        checkpoint: Mapping[str, Any],
        leaves: Sequence[Leaf],
        metadata: Mapping[str, Any],
        request: Request | None,
    ) -> Write:
        """Take this rank's share of a state; all ranks call it for the same saves in the same order.

        Args:
            path: The checkpoint folder.
            checkpoint: Whose tree rank 0 writes.
            leaves: Its DTensors.
            metadata: JSON for the manifest.
            request: If training goes on during the write.

        Returns:
            The write, to be attempted; none of the other ranks' ends before it has ended or given up.

        Raises:
            CheckpointError: Something cannot be stored; the other ranks are told.
        """
        board = Board(next(_saves), path, self._hurry, self._patience)
        try:
            if board.rank:
                return self._part(path, board, Shards(leaves), request)
            return self._whole(path, board, checkpoint, Shards(leaves), metadata, request)
        except BaseException as error:
            give_up_before(board, path, error)
            raise

    def _part(self, path: Path, board: Board, shards: Shards, request: Request | None) -> Write:
        tensors = shards.own if request is None else self._copy(shards.own)
        content = pack(tensors) if tensors else []
        return PartWrite(path, board, shards, content, lambda: _not_finite(tensors, request))

    def _whole(
        self,
        path: Path,
        board: Board,
        checkpoint: Mapping[str, Any],
        shards: Shards,
        metadata: Mapping[str, Any],
        request: Request | None,
    ) -> Write:
        tree, encoded = encode(checkpoint, shards=shards)
        if request is None:
            return WholeWrite(path, board, shards, state_files(tree, encoded), lambda _: metadata, bool)
        tensors = self._copy(encoded)

        def told(bad: Sequence[str]) -> dict[str, Any]:
            first = _not_finite(tensors, request) or next(iter(bad), None)
            return {**metadata, **request.metadata, **finite_or_not(first)}

        return WholeWrite(path, board, shards, state_files(tree, tensors), told, request.after)


def _not_finite(tensors: Mapping[str, Tensor], request: Request | None) -> str | None:
    return None if request is None else first_not_finite(tensors, request.buffers)


def read_pieces(path: Path, *, together: bool = False) -> dict[str, Any]:
    """Read a checkpoint folder with `Pieces` in place of tensors that lay on several ranks, all mapped into memory.

    Args:
        path: The checkpoint folder.
        together: Collective: each rank hashes some of the files, and all raise what one finds.

    Raises:
        CheckpointError: As `read_folder`, or it holds no dict.
    """
    if not together:
        return _in_pieces(path, (0, 1))
    found, said = dict[str, Any](), None
    try:
        found = _in_pieces(path, rank_and_world_size())
    except CheckpointError as error:
        said = str(error)
    if (heard := first_of_ranks(said)) is not None:
        raise CheckpointError(heard)
    return found


def _in_pieces(path: Path, share: tuple[int, int]) -> dict[str, Any]:
    state, _ = read_folder(path, pieces=True, share=share)
    if not isinstance(state, dict):
        raise CheckpointError(f"{path}: it holds a {type(state).__name__}, not a dict")
    return state
