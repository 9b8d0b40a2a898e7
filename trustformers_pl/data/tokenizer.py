"""What turns text into tokens and back: the contract, bytes, and anything that the `tokenizers` library can read."""

from __future__ import annotations

import importlib
import json
from hashlib import sha256
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from trustformers_pl.errors import DataError, RefusedError

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

BYTE = "byte"


class Tokenizer(Protocol):
    """Between text and tokens, which are numbers in [0, vocab_size).

    Attributes:
        vocab_size: How many tokens there are.
        eos: The token that ends a document, or None.
        padding: A token to fill sequences up with; masks hide it.
        identity: Differs where another tokenizer gives other tokens.
    """

    vocab_size: int
    eos: int | None
    padding: int
    identity: str

    def encode(self, text: str) -> list[int]:
        """The tokens of a text, without any that stand for no text."""

    def encode_batch(self, texts: Sequence[str]) -> Iterable[Sequence[int]]:
        """The same for many texts at once."""

    def encode_whole(self, text: str, max_length: int) -> list[int]:
        """At most `max_length` tokens, with those before and after a text that models of this tokenizer expect."""

    def decode(self, ids: Iterable[int]) -> str:
        """The text of tokens; those that stand for no text are left out."""


class ByteTokenizer:
    """UTF-8: a token is a byte. 0xFF, which is in no UTF-8 text, ends a document."""

    vocab_size: int = 256
    eos: int | None = 0xFF
    padding: int = 0
    identity: str = BYTE

    def encode(self, text: str) -> list[int]:
        """The UTF-8 bytes of `text`, each in [0, 256)."""
        return list(text.encode())

    def encode_batch(self, texts: Sequence[str]) -> list[bytes]:
        """Likewise."""
        return [text.encode() for text in texts]

    def encode_whole(self, text: str, max_length: int) -> list[int]:
        """The first `max_length` bytes."""
        return list(text.encode()[:max_length])

    def decode(self, ids: Iterable[int]) -> str:
        """The text of UTF-8 bytes; what is not UTF-8, such as a character cut in two, becomes U+FFFD."""
        return bytes(int(index) for index in ids if index != self.eos).decode(errors="replace")


class SubwordTokenizer:
    """A tokenizer of the `tokenizers` library, such as every `tokenizer.json` holds one.

    Args:
        inner: A `tokenizers.Tokenizer`; its padding and truncation are switched off.
        eos: The text of the token that ends a document; None: it has none.
        padding: The text of the token to fill up with; None takes token 0.
    """

    def __init__(self, inner: Any, eos: str | None, padding: str | None = None) -> None:
        inner.no_padding()
        inner.no_truncation()
        self._inner = inner
        self.vocab_size: int = inner.get_vocab_size(with_added_tokens=True)
        self.eos: int | None = None if eos is None else inner.token_to_id(eos)
        self.padding: int = (None if padding is None else inner.token_to_id(padding)) or 0
        self.identity = sha256(f"{inner.to_str()} {self.eos}".encode()).hexdigest()

    def encode(self, text: str) -> list[int]:
        """The tokens of the text alone."""
        ids: list[int] = self._inner.encode(text, add_special_tokens=False).ids
        return ids

    def encode_batch(self, texts: Sequence[str]) -> list[list[int]]:
        """Likewise, on all cores."""
        encode = getattr(self._inner, "encode_batch_fast", self._inner.encode_batch)  # without offsets in the text
        return [encoding.ids for encoding in encode(texts, add_special_tokens=False)]

    def encode_whole(self, text: str, max_length: int) -> list[int]:
        """With the special tokens of the tokenizer's own template, such as [CLS] and [SEP]; the text's end is cut."""
        ids = self.encode(text)
        kept = max(0, max_length - self._inner.num_special_tokens_to_add(is_pair=False))
        if len(ids) <= kept:
            whole: list[int] = self._inner.encode(text, add_special_tokens=True).ids
            return whole
        self._inner.enable_truncation(max_length)
        try:
            cut: list[int] = self._inner.encode(text, add_special_tokens=True).ids
        finally:
            self._inner.no_truncation()
        return cut

    def decode(self, ids: Iterable[int]) -> str:
        """The text of tokens, without special ones."""
        text: str = self._inner.decode([int(index) for index in ids], skip_special_tokens=True)
        return text

    def to_json(self) -> str:
        """What `tokenizer.json` holds."""
        text: str = self._inner.to_str(pretty=True)
        return text


def load_tokenizer(name: str, separator: str | None = None) -> Tokenizer:
    """The tokenizer that a recipe names.

    Args:
        name: `byte`; the folder of a Hugging Face model; a `tokenizer.json`; or a `.gguf` file.
        separator: The text of the token that ends a document; None takes the model's end-of-sequence token.

    Raises:
        DataError: There is no tokenizer, or it lacks the separator.
        RefusedError: A library that is needed is not installed.
    """
    if name == BYTE:
        return ByteTokenizer()
    path = Path(name)
    file = path / "tokenizer.json" if path.is_dir() else path
    if file.suffix == ".json" and file.is_file():
        inner, eos, padding = _from_json(file), *_special_tokens(file.parent)
    elif path.exists():
        inner, eos, padding = _converted(name)
    else:
        raise DataError(
            f"tokenizer: {name}: no such file or folder; give byte, bpe, a tokenizer.json or a model's folder"
        )
    wanted = separator or eos
    if separator and inner.token_to_id(separator) is None:
        raise DataError(f"tokenizer: {name}: has no token {separator!r}; give another separator")
    return SubwordTokenizer(inner, wanted, padding)


def library() -> Any:
    """The package `tokenizers`.

    Raises:
        RefusedError: It is not installed.
    """
    try:
        return importlib.import_module("tokenizers")
    except ImportError as error:
        raise RefusedError(
            "data: this tokenizer needs the package tokenizers; install trustformers-pl[hf], or take tokenizer: byte"
        ) from error


def _from_json(file: Path) -> Any:
    try:
        return library().Tokenizer.from_file(str(file))
    except RefusedError:
        raise
    except Exception as error:  # the library raises bare Exceptions
        cause = str(error).strip().splitlines()[0]
        raise DataError(f"tokenizer: {file}: cannot be read ({cause}); give a tokenizer.json of the library") from error


def _special_tokens(folder: Path) -> tuple[str | None, str | None]:
    """(eos or separator, padding) as the files beside a `tokenizer.json` name them."""
    found: dict[str, Any] = {}
    for name in ("special_tokens_map.json", "tokenizer_config.json"):
        if (folder / name).is_file():
            found |= {key: value for key, value in json.loads((folder / name).read_text("utf-8")).items() if value}
    eos, sep, pad = (_text_of(found.get(key)) for key in ("eos_token", "sep_token", "pad_token"))
    return eos or sep, pad


def _text_of(token: Any) -> str | None:
    return token.get("content") if isinstance(token, dict) else token


def _converted(name: str) -> tuple[Any, str | None, str | None]:
    """What `transformers` makes of older files, or of a GGUF file."""
    from trustformers_pl.models.hf_folder import ModelFolder

    found = ModelFolder.at(name).tokenizer()
    inner = getattr(found, "backend_tokenizer", None)
    if found is None or inner is None:
        raise DataError(f"tokenizer: {name}: there is no tokenizer in it that the tokenizers library can run")
    return library().Tokenizer.from_str(inner.to_str()), found.eos_token or found.sep_token, found.pad_token
