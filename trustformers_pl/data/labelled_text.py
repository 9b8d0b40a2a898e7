"""Texts with labels from one file, as bytes, for classification."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from lightning import LightningDataModule
from torch.utils.data import DataLoader

from trustformers_pl.data.byte_sequences import ByteSequences, PaddingCollation
from trustformers_pl.data.order import counter_seed
from trustformers_pl.data.text_table import read_columns
from trustformers_pl.errors import DataError

if TYPE_CHECKING:
    from torch import Tensor

    Loader = DataLoader[dict[str, Tensor]]


@dataclass(frozen=True)
class Split:
    """Texts and the numbers of their classes, in the order of the file; without labels where there are none."""

    texts: list[str]
    labels: list[int] | None


class LabelledText(LightningDataModule):
    """A table of texts and labels: the vocabulary is the 256 byte values, a token is a byte.

    Batches are mappings with `input_ids` (B, T) int64, `attention_mask` (B, T) bool, false where it is padding, and
    `labels` (B,) int64. Classes are the different labels of the file, sorted; `classes` has them after `setup`.

    Which texts are held out follows from each text alone (BLAKE2b of `split_seed` and the text): it is the same on
    every machine, texts that come later do not move the others, and equal texts are never on two sides. The shares are
    therefore met on average. Evaluations and predictions go through their texts in the order of the file.

    Args:
        file: `.csv` or `.tsv` with a header, or `.jsonl`; UTF-8.
        text: The column of the texts.
        label: The column of the labels.
        max_length: Bytes of a text that are kept; its end is cut off.
        pad_to: `longest` text of the batch, or `fixed`: `max_length` always, for compiled graphs.
        batch_size: Texts a training batch.
        val_batch_size: Texts a batch of evaluation.
        val_fraction: Share of the texts that is held out for validation.
        test_fraction: Share of the texts that is held out for `test` and `predict`.
        predict_file: Predict the texts of this file instead; it needs no labels.
        split_seed: Another one holds out other texts.
        num_workers: Processes that load batches.

    Raises:
        ValueError: A number is out of range.
        DataError: By `setup`: the file cannot be read, lacks a column or a value, or has fewer than two classes; or a
            split is empty.
    """

    def __init__(
        self,
        *,
        file: str,
        text: str = "text",
        label: str = "label",
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
        if min(val_fraction, test_fraction) < 0 or val_fraction + test_fraction >= 1:
            raise ValueError("val_fraction and test_fraction must not be negative, and leave something to train on")
        self.file, self.text, self.label = file, text, label
        self.max_length, self.pad_to = max_length, pad_to
        self.batch_size, self.val_batch_size = batch_size, val_batch_size
        self.val_fraction, self.test_fraction = val_fraction, test_fraction
        self.predict_file, self.split_seed, self.num_workers = predict_file, split_seed, num_workers
        self.classes: list[Any] = []
        self._splits: dict[str, Split] | None = None

    def setup(self, stage: str | None = None) -> None:
        """Read the file once; later calls, whatever their stage, keep what was read."""
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

    def _read(self) -> dict[str, Split]:
        rows = [(str(text), label) for text, label in read_columns(self.file, self.text, self.label)]
        self.classes = sorted({label for _, label in rows}, key=lambda label: (isinstance(label, str), label))
        if len(self.classes) < 2:
            raise DataError(
                f"{self.file}: column {self.label!r} has one class alone, {self.classes[0]!r}; give two or more"
            )
        numbers = {label: number for number, label in enumerate(self.classes)}
        sides: dict[str, list[tuple[str, int]]] = {"train": [], "val": [], "test": []}
        for text, label in rows:
            sides[self._side(text)].append((text, numbers[label]))
        return {name: Split([text for text, _ in side], [number for _, number in side]) for name, side in sides.items()}

    def _side(self, text: str) -> str:
        position = counter_seed(self.split_seed, "split", text) / 2**64
        if position < self.val_fraction:
            return "val"
        return "test" if position < self.val_fraction + self.test_fraction else "train"

    def _split(self, name: str) -> Split:
        self.setup()
        assert self._splits is not None
        split = self._splits[name]
        if not split.texts:
            raise DataError(
                f"{self.file}: no text falls into the {name} split; give more texts or another {name}_fraction"
            )
        return split

    def _loader(self, split: Split, *, train: bool = False) -> Loader:
        dataset = ByteSequences(split.texts, split.labels, self.max_length)
        return DataLoader(
            dataset,
            batch_size=self.batch_size if train else self.val_batch_size,
            shuffle=train,
            drop_last=train,
            collate_fn=PaddingCollation(self.max_length if self.pad_to == "fixed" else None),
            num_workers=self.num_workers,
            persistent_workers=self.num_workers > 0,
        )
