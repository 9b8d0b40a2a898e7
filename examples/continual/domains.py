"""Three kinds of text as three domains: novels, Python's own sources, mails."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from lightning import LightningDataModule
from torch.utils.data import ConcatDataset, DataLoader, Subset

from trustformers_pl.data import ByteText
from trustformers_pl.data.windows import Windows, collate_windows
from trustformers_pl.errors import DataError

if TYPE_CHECKING:
    from torch import Tensor


class Domains(LightningDataModule):
    """Bytes; one source a folder. Batches are `input_ids` and `labels`, (B, context_length) each.

    Args:
        folders: Of text, read recursively; `stdlib` are the sources of the running Python. `fetch.py` writes the
            other two.
        context_length: Bytes a sample.
        batch_size: Samples of a training batch.
        val_samples: Held-out samples of each source, spread evenly over its last twentieth.
    """

    def __init__(
        self,
        folders: tuple[str, ...] = ("austen", "stdlib", "mails"),
        context_length: int = 64,
        batch_size: int = 16,
        val_samples: int = 256,
    ) -> None:
        super().__init__()
        self.folders, self.context_length = folders, context_length
        self.batch_size, self.val_samples = batch_size, val_samples
        self.texts: list[Tensor] = []

    def setup(self, stage: str | None = None) -> None:
        """Read the texts, once.

        Raises:
            DataError: A folder is not there.
        """
        del stage
        for folder in self.folders[len(self.texts) :]:
            if folder != "stdlib" and not Path(folder).is_dir():
                raise DataError(
                    f"{folder} is not there; `python fetch.py {Path(folder).name}`, beside domains.py, fetches it"
                )
            self.texts.append(ByteText(folder=None if folder == "stdlib" else folder).read())

    def train_dataloader(self) -> Any:
        """All but the last twentieth of each text, mixed."""
        self.setup()
        parts = [Windows(text[: -(len(text) // 20)], self.context_length) for text in self.texts]
        return self._loader(parts, self.batch_size, shuffle=True)

    def val_dataloader(self) -> Any:
        """Of the last twentieth, as many samples of each text."""
        self.setup()
        parts = [Windows(text[-(len(text) // 20) :], self.context_length) for text in self.texts]
        spread = [torch.linspace(0, len(part) - 1, self.val_samples).long().tolist() for part in parts]
        return self._loader([Subset(*pair) for pair in zip(parts, spread, strict=True)], 64)

    def _loader(self, parts: list[Any], batch_size: int, **options: Any) -> Any:
        return DataLoader(ConcatDataset(parts), batch_size=batch_size, collate_fn=collate_windows, **options)
