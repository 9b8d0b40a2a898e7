"""Tokenizers and tokens that are made once, and stored under the names of all that they follow from."""

from __future__ import annotations

import fcntl
import json
import os
from contextlib import contextmanager
from functools import cached_property
from hashlib import sha256
from pathlib import Path
from typing import TYPE_CHECKING, Any

from trustformers_pl.data.bpe import stored_bpe
from trustformers_pl.data.text_digest import digest_of
from trustformers_pl.data.token_files import TokenFiles, write_tokens
from trustformers_pl.data.tokenizer import Tokenizer, load_tokenizer
from trustformers_pl.errors import DataError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from trustformers_pl.data.text_source import TextSource

BPE = "bpe"
VERSION = 1  # of what is stored: another one is made anew


class TokenCache:
    """The tokens of a source.

    Args:
        source: The text.
        folder: Where to store; None: `.tokens` beside the text, and for the standard library the user's cache folder.
        tokenizer_name: `bpe`, or as `load_tokenizer` takes it.
        bpe_size: Tokens of a `bpe` vocabulary.
        separator: See `load_tokenizer`.
    """

    def __init__(
        self, source: TextSource, folder: Path | None, tokenizer_name: str, *, bpe_size: int, separator: str | None
    ) -> None:
        self.source, self.folder = source, _beside(source) if folder is None else folder
        self.tokenizer_name, self.bpe_size, self.separator = tokenizer_name, bpe_size, separator

    @cached_property
    def tokenizer(self) -> Tokenizer:
        """Loaded, or found here, or trained on the training split."""
        if self.tokenizer_name != BPE:
            return load_tokenizer(self.tokenizer_name, self.separator)
        name = f"bpe-{_key(self._text, self.bpe_size)}"
        with self._alone():
            return stored_bpe(self.folder / name / "tokenizer.json", self._training_texts(), self.bpe_size)

    @cached_property
    def files(self) -> TokenFiles:
        """Found here, or made."""
        tokenizer = self.tokenizer
        folder = self.folder / f"tokens-{_key(self._text, tokenizer.identity, tokenizer.eos)}"
        if not folder.exists():
            with self._alone():
                if not folder.exists():
                    write_tokens(folder, self.source.pieces(), tokenizer)
        return TokenFiles(folder)

    @cached_property
    def _text(self) -> str:
        """The text's content and how it is divided, in one number."""
        return _key(VERSION, digest_of(self.source.files(), self.folder), *self.source.division())

    def _training_texts(self) -> Iterator[str]:
        return (piece.text for piece in self.source.pieces() if piece.side == "train")

    @contextmanager
    def _alone(self) -> Iterator[None]:
        """One process of a machine at a time, so that the others find the work done."""
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            descriptor = os.open(self.folder / ".lock", os.O_RDWR | os.O_CREAT, 0o644)
        except OSError as error:
            raise DataError(f"{self.folder}: cannot be written ({error.strerror}); give another `cache`") from error
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX)
            yield
        finally:
            os.close(descriptor)


def _beside(source: TextSource) -> Path:
    if source.path is None:
        home = os.environ.get("XDG_CACHE_HOME")
        return (Path(home) if home else Path.home() / ".cache") / "trustformers_pl"
    path = Path(source.path)
    return (path if path.is_dir() else path.parent) / ".tokens"


def _key(*parts: Any) -> str:
    return sha256(json.dumps(parts).encode()).hexdigest()[:16]
