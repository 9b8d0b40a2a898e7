"""Tokens in files that are mapped into memory: made once, read at any place, and never held as a whole."""

from __future__ import annotations

import json
import os
import shutil
from typing import TYPE_CHECKING, Any, TypedDict

import numpy as np
import torch

from trustformers_pl.data.sides import SIDES, Side
from trustformers_pl.durable import sync_folder
from trustformers_pl.errors import DataError

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

    from torch import Tensor

    from trustformers_pl.data.text_source import Piece
    from trustformers_pl.data.tokenizer import Tokenizer

META = "tokens.json"
BATCH_CHARACTERS = 1 << 20


class Counts(TypedDict):
    """What a split holds: tokens (with separators), documents, and UTF-8 bytes of text."""

    tokens: int
    documents: int
    bytes: int


class MappedTokens:
    """A file of tokens, indexed by tensors of positions; each process maps it for itself.

    Args:
        path: Unsigned integers without a header.
        dtype: `uint16` or `uint32`.
        count: How many there are.
    """

    def __init__(self, path: Path, dtype: str, count: int) -> None:
        self.path, self.dtype, self.count = path, dtype, count
        self._map: Any = None

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, positions: Tensor) -> Tensor:
        """The tokens at positions of any shape, int64."""
        if self._map is None:
            self._map = np.memmap(self.path, self.dtype, "r") if self.count else np.empty(0, self.dtype)
        return torch.from_numpy(self._map[positions.numpy()].astype(np.int64))

    def __getstate__(self) -> dict[str, Any]:
        return {**vars(self), "_map": None}  # a pickled map would be a copy of the file


class TokenFiles:
    """A folder with the tokens of each split, and where its documents end.

    A split is a separator, then each document with a separator behind it, if the tokenizer has one.

    Args:
        folder: Written by `write_tokens`.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._meta: dict[str, Any] = json.loads((folder / META).read_text(encoding="utf-8"))

    def counts(self, side: Side) -> Counts:
        """What a split holds."""
        found: Counts = self._meta["splits"][side]
        return found

    def tokens(self, side: Side) -> MappedTokens:
        """The tokens of a split."""
        return MappedTokens(self.folder / f"{side}.bin", self._meta["dtype"], self.counts(side)["tokens"])

    def ends(self, side: Side) -> Tensor:
        """(documents,) int64: how many tokens there are before the end of each, its separator not counted."""
        return torch.from_numpy(np.fromfile(self.folder / f"{side}.ends", np.int64))


def write_tokens(folder: Path, pieces: Iterable[Piece], tokenizer: Tokenizer) -> None:
    """Make `folder`, whole or not at all; where several processes do, the first to end has made it.

    Args:
        folder: The new folder; its parent is made if need be.
        pieces: The text.
        tokenizer: What makes the tokens.

    Raises:
        DataError: The folder cannot be written.
    """
    unfinished = folder.with_name(f".{folder.name}.unfinished-{os.getpid()}-{os.urandom(4).hex()}")
    try:
        unfinished.mkdir(parents=True)
        _write(unfinished, pieces, tokenizer)
        put_in_place(unfinished, folder)
    except OSError as error:
        raise DataError(f"{folder.parent}: cannot be written ({error.strerror}); give another `cache`") from error
    finally:
        shutil.rmtree(unfinished, ignore_errors=True)


def put_in_place(unfinished: Path, folder: Path) -> None:
    """Give a folder its final name, unless another process was first: both hold the same."""
    for file in unfinished.iterdir():
        with file.open("rb") as opened:
            os.fsync(opened.fileno())
    try:
        unfinished.rename(folder)
    except OSError:
        if not folder.is_dir():
            raise
    sync_folder(folder.parent)


def _write(folder: Path, pieces: Iterable[Piece], tokenizer: Tokenizer) -> None:
    dtype = "uint16" if tokenizer.vocab_size <= 1 << 16 else "uint32"
    writers = {side: _SplitWriter(folder, side, dtype, tokenizer) for side in SIDES}
    for piece in pieces:
        writers[piece.side].add(piece)
    splits = {side: writer.close() for side, writer in writers.items()}
    meta = {"dtype": dtype, "vocab_size": tokenizer.vocab_size, "separator": tokenizer.eos, "splits": splits}
    (folder / META).write_text(json.dumps(meta, indent=1), encoding="utf-8")


class _SplitWriter:
    """Tokenises a batch of pieces at once, and appends."""

    def __init__(self, folder: Path, side: Side, dtype: str, tokenizer: Tokenizer) -> None:
        self._tokenizer, self._dtype = tokenizer, dtype
        self._tokens = (folder / f"{side}.bin").open("wb")
        self._ends = (folder / f"{side}.ends").open("wb")
        self._separator = [] if tokenizer.eos is None else [tokenizer.eos]
        self._counts: Counts = {"tokens": 0, "documents": 0, "bytes": 0}
        self._waiting: list[Piece] = []
        self._characters = self._begun = 0

    def add(self, piece: Piece) -> None:
        self._waiting.append(piece)
        self._characters += len(piece.text)
        if self._characters >= BATCH_CHARACTERS:
            self._flush()

    def close(self) -> Counts:
        self._flush()
        self._tokens.close()
        self._ends.close()
        return self._counts

    def _flush(self) -> None:
        if self._waiting and not self._counts["tokens"]:
            self._append(self._separator)
            self._begun = self._counts["tokens"]
        texts = [piece.text for piece in self._waiting]
        for piece, ids in zip(self._waiting, self._tokenizer.encode_batch(texts), strict=True):
            self._counts["bytes"] += len(piece.text.encode())
            self._append(ids)
            if piece.ends and self._counts["tokens"] > self._begun:  # a document without any text is none
                np.array([self._counts["tokens"]], np.int64).tofile(self._ends)
                self._counts["documents"] += 1
                self._append(self._separator)
                self._begun = self._counts["tokens"]
        self._waiting, self._characters = [], 0

    def _append(self, ids: Any) -> None:
        array = np.frombuffer(ids, np.uint8) if isinstance(ids, bytes) else np.asarray(ids, np.int64)
        array.astype(self._dtype).tofile(self._tokens)
        self._counts["tokens"] += len(array)
