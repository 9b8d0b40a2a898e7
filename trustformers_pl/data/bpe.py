"""Byte-level byte-pair encoding, trained on one's own text."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from trustformers_pl.data.tokenizer import SubwordTokenizer, library
from trustformers_pl.durable import write_durably
from trustformers_pl.errors import DataError

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

SEPARATOR = "<|endoftext|>"
SMALLEST = 256 + 1


def train_bpe(texts: Iterable[str], vocab_size: int) -> SubwordTokenizer:
    """Merge the commonest pair of neighbouring tokens again and again, starting from bytes.

    Sennrich et al. 2016, "Neural Machine Translation of Rare Words with Subword Units", on bytes, and within words as
    GPT-2 splits them (Radford et al. 2019, section 2.2). The result follows from the texts alone.

    Args:
        texts: What to train on.
        vocab_size: Tokens: 256 bytes, the separator, and merges; fewer if the texts have no more pairs.

    Returns:
        A tokenizer whose `<|endoftext|>` ends documents. Any text can be encoded, and decodes to itself.
    """
    tokenizers = library()
    inner = tokenizers.Tokenizer(tokenizers.models.BPE())
    inner.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False)
    inner.decoder = tokenizers.decoders.ByteLevel()
    trainer = tokenizers.trainers.BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=[SEPARATOR],
        initial_alphabet=tokenizers.pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    inner.train_from_iterator(texts, trainer)
    return SubwordTokenizer(inner, SEPARATOR)


def stored_bpe(file: Path, texts: Iterable[str], vocab_size: int) -> SubwordTokenizer:
    """The tokenizer in a file, which is trained and written first where it is not there; atomic.

    Args:
        file: A `tokenizer.json`, in a folder that is named after all that the training follows from.
        texts: Not read if the file is there.
        vocab_size: See `train_bpe`.

    Raises:
        DataError: The file cannot be written.
    """
    if not file.exists():
        trained = train_bpe(texts, vocab_size)
        try:
            file.parent.mkdir(parents=True, exist_ok=True)
            write_durably(file, trained.to_json())
        except OSError as error:
            raise DataError(f"{file.parent}: cannot be written ({error.strerror}); give another `cache`") from error
    return SubwordTokenizer(library().Tokenizer.from_file(os.fspath(file)), SEPARATOR)
