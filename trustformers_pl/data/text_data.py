"""Text for language modelling, as tokens of any tokenizer: tokenised once, mapped into memory, packed into windows."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from lightning import LightningDataModule
from torch.utils.data import DataLoader

from trustformers_pl.data.bpe import SMALLEST
from trustformers_pl.data.packing import PackedDocuments
from trustformers_pl.data.sides import Side, check_fractions
from trustformers_pl.data.text_source import TextFormat, TextSource
from trustformers_pl.data.token_cache import TokenCache
from trustformers_pl.data.windows import Windows, collate_windows
from trustformers_pl.errors import DataError

if TYPE_CHECKING:
    from collections.abc import Iterable

    from torch import Tensor

    from trustformers_pl.data.token_files import TokenFiles
    from trustformers_pl.data.tokenizer import Tokenizer

    Loader = DataLoader[dict[str, Tensor]]


class TextData(LightningDataModule):
    """Text of any size as tokens.

    The text is read once, tokenised, and stored in files of 2 (or 4) bytes a token, named after the text's content and
    all that the tokens follow from. Training maps them into memory and reads them at any place: the order of samples
    is a pure function of seed and epoch, a run resumes exactly, and text that is larger than memory is no matter.
    Processes that find the files there, on this or another rank, read them; a run resumes on the same ones only.

    Batches are mappings with `input_ids` and `labels`, (B, context_length) int64 each; `labels[:, t]` is the token
    after `input_ids[:, t]`, -100 where there is none. Training batches are shuffled and whole; evaluations go through
    the held-out text in order.

    Args:
        source: A text file; a folder of text files, read recursively; a `.csv`, `.tsv`, `.jsonl` or `.parquet` table
            with a row for each document; or a folder of `datasets.save_to_disk`. None: the standard library of the
            running Python.
        format: One of these, where the ending does not tell.
        pattern: Which files of a folder, as `pathlib.Path.rglob` reads it.
        text: The column of a table.
        tokenizer: `byte`; `bpe`, trained on the training split; or that of a Hugging Face model, by its folder, its
            `tokenizer.json` or its `.gguf` file.
        bpe_size: Tokens of a `bpe` vocabulary.
        separator: The text of the token between documents; None takes the tokenizer's end-of-sequence token. Not for
            `byte` and `bpe`, which have their own.
        context_length: Tokens in a sample.
        packing: `concat`: the text is cut every `context_length` tokens, and every token is predicted from those before
            it in the sample, across documents too. `documents`: samples hold whole documents, padded, and
            `document_ids` (B, context_length) numbers them, so that attention stays within each.
        batch_size: Samples a training batch.
        val_batch_size: Samples a batch of evaluation.
        val_fraction: Share that is held out for validation, unless a folder of `datasets` has a split for it: of files,
            the end, by bytes; of a table, the rows whose text says so (as in `LabelledText`).
        test_fraction: Share that is held out for testing, likewise.
        split_seed: Another one holds out other rows of a table.
        cache: Where tokens and tokenizers are stored; None: in `.tokens` beside the text, and for the standard library
            in the user's cache folder.
        num_workers: Processes that load batches; gathering one takes microseconds, so 0 is fastest.

    Raises:
        ValueError: A number is out of range.
        DataError: By `prepare_data`: the text is missing, unreadable or not what it says it is (with file and line),
            there is no such tokenizer, or a split is shorter than a sample.
        RefusedError: A library that is needed is not installed.
    """

    def __init__(
        self,
        *,
        source: str | None = None,
        format: TextFormat | None = None,  # noqa: A002
        pattern: str | None = None,
        text: str = "text",
        tokenizer: str = "byte",
        bpe_size: int = 8192,
        separator: str | None = None,
        context_length: int = 128,
        packing: Literal["concat", "documents"] = "concat",
        batch_size: int = 16,
        val_batch_size: int = 64,
        val_fraction: float = 0.05,
        test_fraction: float = 0.0,
        split_seed: int = 0,
        cache: str | None = None,
        num_workers: int = 0,
    ) -> None:
        super().__init__()
        if min(context_length, batch_size, val_batch_size) < 1 or num_workers < 0:
            raise ValueError("context_length, batch_size and val_batch_size must be at least 1, num_workers at least 0")
        if bpe_size < SMALLEST:
            raise ValueError(f"bpe_size {bpe_size} must be at least {SMALLEST}: the bytes and the separator")
        check_fractions(val_fraction, test_fraction)
        self.source = TextSource(source, format, pattern, text, val_fraction, test_fraction, split_seed)
        self.context_length, self.packing = context_length, packing
        self.batch_size, self.val_batch_size, self.num_workers = batch_size, val_batch_size, num_workers
        folder = None if cache is None else Path(cache)
        self._cache = TokenCache(self.source, folder, tokenizer, bpe_size=bpe_size, separator=separator)
        self._datasets: dict[Side, Windows | PackedDocuments] = {}

    @property
    def tokenizer(self) -> Tokenizer:
        """What makes the tokens: loaded, or trained, when it is needed."""
        return self._cache.tokenizer

    @property
    def files(self) -> TokenFiles:
        """The stored tokens, which are made if they are not there."""
        return self._cache.files

    @property
    def vocab_size(self) -> int:
        """Number of different tokens."""
        return self.tokenizer.vocab_size

    @property
    def bytes_per_token(self) -> float:
        """UTF-8 bytes of the held-out text over its tokens, separators among them: for bits per byte."""
        counts = self.files.counts("val")
        return counts["bytes"] / max(1, counts["tokens"])

    def prepare_data(self) -> None:
        """Tokenise, on one process a node; others wait for it."""
        _ = self.files

    def setup(self, stage: str | None = None) -> None:
        """Map the tokens, whatever the stage."""
        del stage
        _ = self.files

    def train_dataloader(self) -> Loader:
        """Shuffled batches of `batch_size` samples; the incomplete last one is dropped."""
        return self._loader("train", self.batch_size)

    def val_dataloader(self) -> Loader:
        """Every sample that is held out for validation once, in order."""
        return self._loader("val", self.val_batch_size)

    def test_dataloader(self) -> Loader:
        """Every sample that is held out for testing once, in order."""
        return self._loader("test", self.val_batch_size)

    def encode(self, text: str) -> list[int]:
        """The tokens of a text."""
        return self.tokenizer.encode(text)

    def decode(self, ids: Iterable[int]) -> str:
        """The text of tokens."""
        return self.tokenizer.decode(ids)

    def state_dict(self) -> dict[str, Any]:
        """Which tokens a run is trained on."""
        return {"tokens": self.files.folder.name}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on with the same tokens.

        Raises:
            DataError: Text or tokenizer are others than when the checkpoint was saved.
        """
        before, now = state_dict["tokens"], self.files.folder.name
        if before != now:
            raise DataError(
                f"{self.source.name}: text or tokenizer have changed since the checkpoint ({before} before, {now} "
                "now); restore them, or start anew with --resume=never"
            )

    def _loader(self, side: Side, batch_size: int) -> Loader:
        train = side == "train"
        return DataLoader(
            self._dataset(side, batch_size if train else 1),
            batch_size=batch_size,
            shuffle=train,
            drop_last=train,
            collate_fn=collate_windows,
            num_workers=self.num_workers,
            persistent_workers=self.num_workers > 0,
        )

    def _dataset(self, side: Side, samples: int) -> Windows | PackedDocuments:
        if side not in self._datasets:
            self._datasets[side] = self._packed(side)
        dataset = self._datasets[side]
        if len(dataset) < samples:
            tokens = self.files.counts(side)["tokens"]
            raise DataError(
                f"{self.source.name}: the {side} split has {tokens} tokens, {len(dataset)} samples of context_length "
                f"{self.context_length}, and {samples} are needed; give more text, another split, or smaller samples "
                "or batches"
            )
        return dataset

    def _packed(self, side: Side) -> Windows | PackedDocuments:
        tokens = self.files.tokens(side)
        if self.packing == "concat":
            return Windows(tokens, self.context_length)
        if self.tokenizer.eos is None:
            name = self._cache.tokenizer_name
            raise DataError(
                f"tokenizer: {name} has no end-of-sequence token, which packing: documents needs; name a separator"
            )
        return PackedDocuments(tokens, self.files.ends(side), self.context_length, self.tokenizer.padding)
