"""One checkpoint folder written by several ranks: each its own pieces, rank 0 all else, the manifest and the rename."""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from trustformers_pl.checkpoint import manifest as manifests
from trustformers_pl.checkpoint.atomic import fsync_folder, make_folder, publish
from trustformers_pl.checkpoint.manifest import Entry, Manifest, part_name
from trustformers_pl.checkpoint.unfinished import finished, unfinished
from trustformers_pl.checkpoint.verification import check_size
from trustformers_pl.checkpoint.writing import reason, write_file
from trustformers_pl.errors import CheckpointError

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from trustformers_pl.checkpoint.board import Board
    from trustformers_pl.checkpoint.shards import Shards
    from trustformers_pl.checkpoint.writing import Content


class Write(Protocol):
    """A write that may be tried again."""

    def __call__(self) -> None:
        """One attempt; the next one goes on where this one failed."""

    def give_up(self, error: BaseException) -> None:
        """No further attempt is made."""


class PartWrite:
    """What a rank other than 0 does: it writes its pieces into rank 0's folder, and waits for the rename.

    Args:
        path: The checkpoint.
        board: Of this save.
        shards: Whose pieces this rank writes.
        content: The bytes of its file; empty if it has no piece.
        look: The first tensor among them that is not finite, if somebody is to look.
    """

    def __init__(
        self, path: Path, board: Board, shards: Shards, content: Content, look: Callable[[], str | None]
    ) -> None:
        self._path, self._board, self._shards, self._content, self._look = path, board, shards, content, look
        self._name = part_name(board.rank, board.ranks)
        self._reported = False

    def __call__(self) -> None:
        """One attempt.

        Raises:
            CheckpointError: This rank or another one cannot write.
        """
        if not self._reported:
            self._write()
        self._board.wait_for_end()

    def _write(self) -> None:
        told: dict[str, Any] = {"digest": self._shards.digest_of(self._board.rank), "not_finite": self._look()}
        place = Path(self._board.folder()) / self._name
        try:
            if self._content:
                place.unlink(missing_ok=True)  # of an attempt before
                told["entry"] = write_file(place, self._content).written()
        except OSError as error:
            cause = reason(self._path, {self._name: self._content}, error)
            raise CheckpointError(f"{self._path}: checkpoint not written: rank {self._board.rank}: {cause}") from error
        self._board.report(told)
        self._reported = True

    def give_up(self, error: BaseException) -> None:
        """Tell rank 0, which then gives up as well."""
        if not self._reported:
            give_up_before(self._board, self._path, error)


class WholeWrite:
    """What rank 0 does: it makes the folder, writes its files, waits for the other ranks' parts, and publishes.

    Args:
        path: The checkpoint.
        board: Of this save.
        shards: The tensors whose pieces all ranks write.
        files: The pieces of rank 0's files by name.
        metadata: JSON for the manifest; called once, by the writer, with what the other ranks found not finite.
        after: Called once the checkpoint is safe.
    """

    def __init__(
        self,
        path: Path,
        board: Board,
        shards: Shards,
        files: Mapping[str, Content],
        metadata: Callable[[list[str]], Mapping[str, Any]],
        after: Callable[[], object],
    ) -> None:
        self._path, self._board, self._shards, self._files = path, board, shards, files
        self._metadata, self._after = metadata, after
        self._entries: dict[str, Entry] = {}
        self._folder: Path | None = None
        self._published = False

    def __call__(self) -> None:
        """One attempt.

        Raises:
            CheckpointError: This rank or another one cannot write.
        """
        if not self._published:
            self._write()
        self._after()
        self._board.end(None)
        self._board.leave()

    def _write(self) -> None:
        try:
            folder = self._folder or self._begin()
            for name in [name for name in self._files if name not in self._entries]:
                (folder / name).unlink(missing_ok=True)  # of an attempt before
                self._entries[name] = write_file(folder / name, self._files[name])
            manifest = self._whole(folder)
            (folder / manifests.NAME).unlink(missing_ok=True)
            write_file(folder / manifests.NAME, [manifests.render(manifest)])
            fsync_folder(folder)
        except OSError as error:
            raise CheckpointError(self._why(error)) from error
        self._publish(folder)

    def _begin(self) -> Path:
        make_folder(self._path.parent)
        folder = unfinished(self._path, "tmp")
        try:
            folder.mkdir()
        except OSError:
            finished(folder)
            raise
        self._folder = folder
        self._board.put_folder(folder)
        return folder

    def _whole(self, folder: Path) -> Manifest:
        """The manifest of all ranks' files."""
        reports = self._board.reports()
        entries = {name: self._entries[name] for name in self._files}
        for rank, told in reports.items():
            if told["digest"] != self._shards.digest_of(rank):
                raise CheckpointError(
                    f"{self._path}: checkpoint not written: rank {rank} has other sharded tensors than rank 0; give "
                    "all ranks the same parts"
                )
            if "entry" in told:
                name = part_name(rank, self._board.ranks)
                entries[name] = manifests.entry_of(told["entry"])
                check_size(folder / name, entries[name])  # not there, if the ranks' disks are not one
        return Manifest(
            entries, self._metadata([told["not_finite"] for told in reports.values() if told["not_finite"]])
        )

    def _publish(self, folder: Path) -> None:
        try:
            publish(folder, self._path)
        except OSError as error:
            # Not tried again: the names may have been exchanged already, and would be exchanged back.
            raise CheckpointError(self._why(error)) from None
        self._published = True

    def _why(self, error: OSError) -> str:
        return f"{self._path}: checkpoint not written: {reason(self._path, self._files, error)}"

    def give_up(self, error: BaseException) -> None:
        """Tell the other ranks, and remove what was written when none of them writes any more."""
        with contextlib.suppress(CheckpointError):  # the ranks cannot speak to each other: what is left is to tidy up
            self._board.end(_line(self._path, error))
            self._board.wait_for_writers()
        if self._folder is not None:
            finished(self._folder)
        with contextlib.suppress(CheckpointError):
            self._board.leave()


def give_up_before(board: Board, path: Path, error: BaseException) -> None:
    """Tell the other ranks of an error before anything was written, or of one of a rank other than 0.

    Args:
        board: Of this save.
        path: The checkpoint.
        error: What they shall raise.
    """
    with contextlib.suppress(CheckpointError):  # which this rank is telling of
        if board.rank:
            board.report({"error": _line(path, error)})
            board.wait_for_end()
        else:
            board.end(_line(path, error))
            board.leave()


def _line(path: Path, error: BaseException) -> str:
    if isinstance(error, CheckpointError):
        return str(error)
    cause = (str(error) or type(error).__name__).splitlines()[0]
    return f"{path}: checkpoint not written: {type(error).__name__}: {cause}"
