"""A module and data so small that a fit takes milliseconds."""

from __future__ import annotations

from typing import Any

import torch
from lightning.pytorch import LightningDataModule, LightningModule
from torch import Tensor, nn
from torch.utils.data import DataLoader

from trustformers_pl.decomposed import DecomposedLoss

VOCABULARY = 128


class TinyLM(DecomposedLoss, LightningModule):
    """A bigram language model of bytes: batch (B, T) int64; token 0 is padding and not counted."""

    def __init__(self, lr: float = 0.1) -> None:
        super().__init__()
        self.lr = lr
        self.table = nn.Embedding(VOCABULARY, VOCABULARY)
        nn.init.normal_(self.table.weight, generator=torch.Generator().manual_seed(1))

    def forward(self, batch: Tensor) -> Tensor:
        return self.table(batch[:, :-1])

    def loss(self, outputs: Tensor, batch: Tensor) -> tuple[Tensor, Tensor]:
        targets = batch[:, 1:]
        losses = nn.functional.cross_entropy(outputs.transpose(1, 2), targets, reduction="none", ignore_index=0)
        return losses.sum(), (targets != 0).sum()

    def configure_optimizers(self) -> Any:
        optimizer = torch.optim.SGD(self.parameters(), lr=self.lr)
        schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 1.0 / (1 + step))
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}

    def generate(
        self, input_ids: Tensor, *, max_new_tokens: int, temperature: float, top_k: int | None, generator: Any
    ) -> Tensor:
        for _ in range(max_new_tokens):
            logits = self.table(input_ids[:, -1]) / temperature
            if top_k is not None:
                logits = logits.where(logits >= logits.topk(top_k).values[:, -1:], float("-inf"))
            drawn = torch.multinomial(logits.softmax(-1), 1, generator=generator)
            input_ids = torch.cat([input_ids, drawn], dim=1)
        return input_ids


class TinyText(LightningDataModule):
    """Rows of 9 tokens, of which some end in padding, so that counts differ between batches."""

    bytes_per_token = 2.0

    def __init__(self, batches: int = 20, val_batches: int = 3) -> None:
        super().__init__()
        self.train_rows = self.rows(4 * batches, seed=2)
        self.val_rows = self.rows(4 * val_batches, seed=3)

    @staticmethod
    def rows(number: int, seed: int) -> Tensor:
        generator = torch.Generator().manual_seed(seed)
        rows = torch.randint(1, VOCABULARY, (number, 9), generator=generator)
        lengths = torch.randint(3, 10, (number, 1), generator=generator)
        return rows.where(torch.arange(9) < lengths, 0)

    def train_dataloader(self) -> Any:
        return DataLoader(self.train_rows, batch_size=4)

    def val_dataloader(self) -> Any:
        return DataLoader(self.val_rows, batch_size=4)

    def encode(self, text: str) -> list[int]:
        return list(text.encode("ascii"))

    def decode(self, ids: list[int]) -> str:
        return bytes(ids).decode("ascii")
