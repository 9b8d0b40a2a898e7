"""Texts with labels from one table, as bytes or as a model's tokens, for classification."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from lightning import LightningDataModule
from torch.utils.data import DataLoader

from trustformers_pl.data.arrow_table import arrow_class_names
from trustformers_pl.data.sequences import PaddingCollation, TokenSequences
from trustformers_pl.data.sides import SIDES, Side, check_fractions, own_splits, side_of
from trustformers_pl.data.text_table import TableFormat, read_columns
from trustformers_pl.data.tokenizer import BYTE, Tokenizer, load_tokenizer
from trustformers_pl.errors import DataError

if TYPE_CHECKING:
    from torch import Tensor

    Loader = DataLoader[dict[str, Tensor]]

IGNORED = -100  # where `datasets` has -1: a text whose class is not told


@dataclass(frozen=True)
class Split:
    """Texts and the numbers of their classes, in the order of the file; without labels where there are none."""

    texts: list[str]
    labels: list[int] | None


class LabelledText(LightningDataModule):
    """A table of texts and labels, as bytes or as the tokens of a model.

    Batches are mappings with `input_ids` (B, T) int64, `attention_mask` (B, T) bool, false where it is padding, and
    `labels` (B,) int64. Classes are the different labels of the table, sorted, or the names that a folder of `datasets`
    has for its class numbers; `classes` has them after `setup`.

    A folder of `datasets` with splits is used as it is split. Else, which texts are held out follows from each text
    alone (BLAKE2b of `split_seed` and the text): it is the same on every machine, texts that come later do not move the
    others, and equal texts are never on two sides. The shares are therefore met on average. Evaluations and predictions
    go through their texts in the order of the table.

    Args:
        file: `.csv` or `.tsv` with a header, or `.jsonl`, UTF-8; `.parquet`; or a folder of `datasets.save_to_disk`.
        format: One of these, where the ending does not tell.
        text: The column of the texts.
        label: The column of the labels.
        tokenizer: `byte`: a token is a byte, of 256 values; or that of a Hugging Face model, by its folder, its
            `tokenizer.json` or its `.gguf` file, with that model's special tokens.
        max_length: Tokens of a text that are kept; its end is cut off.
        pad_to: `longest` text of the batch, or `fixed`: `max_length` always, for compiled graphs.
        batch_size: Texts a training batch.
        val_batch_size: Texts a batch of evaluation.
        val_fraction: Share of the texts that is held out for validation, unless there is a split for it.
        test_fraction: Share of the texts that is held out for `test` and `predict`, unless there is a split for it.
        predict_file: Predict the texts of this table instead; it needs no labels.
        split_seed: Another one holds out other texts.
        num_workers: Processes that load batches.

    Raises:
        ValueError: A number is out of range.
        DataError: By `setup`: the file cannot be read, lacks a column or a value, or has fewer than two classes; or a
            split is empty, or there is no such tokenizer.
    """

    def __init__(
        self,
        *,
        file: str,
        format: TableFormat | None = None,  # noqa: A002
        text: str = "text",
        label: str = "label",
        tokenizer: str = BYTE,
        max_length: int = 256,
        pad_to: Literal["longest", "fixed"] = "longest",
        batch_size: int = 32,
        val_batch_size: int = 128,
        val_fraction: float = 0.1,
        test_fraction: float = 0.1,
        predict_file: str | None = None,
        split_seed: int = 0,
        num_workers: int = 0,
    ) -> None:
        super().__init__()
        if min(max_length, batch_size, val_batch_size) < 1 or num_workers < 0:
            raise ValueError("max_length, batch_size and val_batch_size must be at least 1, num_workers at least 0")
        check_fractions(val_fraction, test_fraction)
        self.file, self.format, self.text, self.label = file, format, text, label
        self.max_length, self.pad_to = max_length, pad_to
        self.batch_size, self.val_batch_size = batch_size, val_batch_size
        self.val_fraction, self.test_fraction = val_fraction, test_fraction
        self.predict_file, self.split_seed, self.num_workers = predict_file, split_seed, num_workers
        self.tokenizer_name = tokenizer
        self.classes: list[Any] = []
        self._splits: dict[Side, Split] | None = None

    @cached_property
    def tokenizer(self) -> Tokenizer:
        """What makes the tokens, loaded when it is needed."""
        return load_tokenizer(self.tokenizer_name)

    @property
    def vocab_size(self) -> int:
        """Number of different tokens."""
        return self.tokenizer.vocab_size

    def setup(self, stage: str | None = None) -> None:
        """Read the table once; later calls, whatever their stage, keep what was read."""
        del stage
        if self._splits is None:
            self._splits = self._read()

    def train_dataloader(self) -> Loader:
        """Shuffled batches of `batch_size` texts; the incomplete last one is dropped."""
        return self._loader(self._split("train"), train=True)

    def val_dataloader(self) -> Loader:
        """Every text that is held out for validation."""
        return self._loader(self._split("val"))

    def test_dataloader(self) -> Loader:
        """Every text that is held out for testing."""
        return self._loader(self._split("test"))

    def predict_dataloader(self) -> Loader:
        """The texts of `predict_file`, or those that are held out for testing; without labels."""
        if self.predict_file is None:
            return self._loader(Split(self._split("test").texts, None))
        texts = [str(text) for (text,) in read_columns(self.predict_file, self.text)]
        return self._loader(Split(texts, None))

    def _read(self) -> dict[Side, Split]:
        rows = {side: self._rows(side) for side in SIDES}
        self.classes, numbers = self._classes([label for side in rows.values() for _, label in side])
        return {
            side: Split([text for text, _ in pairs], [numbers[label] for _, label in pairs])
            for side, pairs in self._divided(rows).items()
        }

    def _rows(self, side: Side) -> list[tuple[str, Any]]:
        """The (text, label) pairs of a split that the table itself has; everything is in `train` otherwise."""
        splits = own_splits(self.file)
        if side not in splits:
            return []
        found = read_columns(self.file, self.text, self.label, kind=self.format, split=splits[side])
        return [(str(text), label) for text, label in found]

    def _divided(self, rows: dict[Side, list[tuple[str, Any]]]) -> dict[Side, list[tuple[str, Any]]]:
        """Hold out what has no split of its own."""
        divided: dict[Side, list[tuple[str, Any]]] = {**rows, "train": []}
        val, test = (0.0 if rows["val"] else self.val_fraction), (0.0 if rows["test"] else self.test_fraction)
        for text, label in rows["train"]:
            divided[side_of(text, val, test, self.split_seed)].append((text, label))
        return divided

    def _classes(self, labels: list[Any]) -> tuple[list[Any], dict[Any, int]]:
        """The classes, and the number of each label."""
        names = arrow_class_names(Path(self.file), own_splits(self.file)["train"], self.label)
        found = sorted(set(labels), key=lambda label: (isinstance(label, str), label))
        if names is not None and all(isinstance(label, int) and -1 <= label < len(names) for label in found):
            return names, {-1: IGNORED, **{number: number for number in range(len(names))}}
        if len(found) < 2:
            raise DataError(f"{self.file}: column {self.label!r} has one class alone, {found[0]!r}; give two or more")
        return found, {label: number for number, label in enumerate(found)}

    def _split(self, name: Side) -> Split:
        self.setup()
        assert self._splits is not None
        split = self._splits[name]
        if not split.texts:
            raise DataError(
                f"{self.file}: no text falls into the {name} split; give more texts or another {name}_fraction"
            )
        return split

    def _loader(self, split: Split, *, train: bool = False) -> Loader:
        dataset = TokenSequences(split.texts, split.labels, self.max_length, self.tokenizer)
        return DataLoader(
            dataset,
            batch_size=self.batch_size if train else self.val_batch_size,
            shuffle=train,
            drop_last=train,
            collate_fn=PaddingCollation(self.max_length if self.pad_to == "fixed" else None, self.tokenizer.padding),
            num_workers=self.num_workers,
            persistent_workers=self.num_workers > 0,
        )
