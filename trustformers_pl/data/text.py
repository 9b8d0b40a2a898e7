"""Byte-level language modelling on any folder of text, or on Python's own sources, with nothing to download."""

from __future__ import annotations

from typing import TYPE_CHECKING

from lightning import LightningDataModule
from torch.utils.data import DataLoader

from trustformers_pl.data.text_files import text_bytes
from trustformers_pl.data.windows import Windows, collate_windows
from trustformers_pl.errors import DataError

if TYPE_CHECKING:
    from collections.abc import Iterable

    from torch import Tensor


class ByteText(LightningDataModule):
    """UTF-8 text as bytes: the vocabulary is the 256 byte values, a token is a byte.

    Batches are mappings with `input_ids` and `labels`, (B, context_length) int64 each; `labels[:, t]` is the byte after
    `input_ids[:, t]`. Training batches are shuffled and whole; validation goes through the held-out text in order.

    Args:
        folder: Where the text lies, read recursively; None takes the standard library of the running Python, about
            12 MB of source code.
        pattern: Which files, as `pathlib.Path.rglob` reads it. None means `*.py` for the standard library and `*`, all
            files, for a folder; names that start with a dot are left out.
        context_length: Bytes a sample.
        batch_size: Samples a training batch.
        val_batch_size: Samples a validation batch.
        val_fraction: Share of the bytes that is held out: the end of the last files in the order of their paths.
        num_workers: Processes that load batches; gathering one takes microseconds, so 0 is fastest.

    Raises:
        ValueError: A number is out of range.
        DataError: By `setup`: the folder is missing, no file matches, a file is unreadable or not UTF-8, or the text is
            too short for one training batch or one held-out sample. In the standard library, files that are not UTF-8
            are skipped.
    """

    bytes_per_token = 1.0

    def __init__(
        self,
        *,
        folder: str | None = None,
        pattern: str | None = None,
        context_length: int = 128,
        batch_size: int = 16,
        val_batch_size: int = 64,
        val_fraction: float = 0.05,
        num_workers: int = 0,
    ) -> None:
        super().__init__()
        if min(context_length, batch_size, val_batch_size) < 1 or num_workers < 0:
            raise ValueError("context_length, batch_size and val_batch_size must be at least 1, num_workers at least 0")
        if not 0.0 < val_fraction < 1.0:
            raise ValueError(f"val_fraction {val_fraction} must be between 0 and 1")
        self.folder = folder
        self.pattern = pattern
        self.context_length = context_length
        self.batch_size = batch_size
        self.val_batch_size = val_batch_size
        self.val_fraction = val_fraction
        self.num_workers = num_workers
        self._splits: tuple[Windows, Windows] | None = None

    def setup(self, stage: str | None = None) -> None:
        """Read the files once; later calls, whatever their stage, keep what was read."""
        del stage
        if self._splits is None:
            text = self.read()
            held_out = int(len(text) * self.val_fraction)
            train, val = text[: len(text) - held_out], text[len(text) - held_out :]
            self._splits = self._windows(train, "training", self.batch_size), self._windows(val, "held-out", 1)

    def read(self) -> Tensor:
        """The whole text: (bytes,) uint8."""
        return text_bytes(self.folder, self.pattern)

    def _windows(self, text: Tensor, split: str, samples: int) -> Windows:
        needed = samples * self.context_length + 1
        if len(text) < needed:
            raise DataError(
                f"{self.folder or 'standard library'}: {len(text)} bytes of {split} text are fewer than {needed}: "
                f"{samples} x context_length {self.context_length} + 1; give more text, or smaller batches or samples"
            )
        return Windows(text, self.context_length)

    def _split(self, index: int) -> Windows:
        self.setup()
        assert self._splits is not None
        return self._splits[index]

    def train_dataloader(self) -> DataLoader[dict[str, Tensor]]:
        """Shuffled batches of `batch_size` samples; the incomplete last one is dropped."""
        return self._loader(self._split(0), self.batch_size, train=True)

    def val_dataloader(self) -> DataLoader[dict[str, Tensor]]:
        """Every held-out sample once, in order."""
        return self._loader(self._split(1), self.val_batch_size, train=False)

    def _loader(self, windows: Windows, batch_size: int, *, train: bool) -> DataLoader[dict[str, Tensor]]:
        return DataLoader(
            windows,
            batch_size=batch_size,
            shuffle=train,
            drop_last=train,
            collate_fn=collate_windows,
            num_workers=self.num_workers,
            persistent_workers=self.num_workers > 0,
        )

    def encode(self, text: str) -> list[int]:
        """The UTF-8 bytes of `text`, each in [0, 256)."""
        return list(text.encode())

    def decode(self, ids: Iterable[int]) -> str:
        """The text of UTF-8 bytes; what is not UTF-8, such as a character cut in two, becomes U+FFFD."""
        return bytes(int(index) for index in ids).decode(errors="replace")
