"""ZeRO stage 3 in a stock Lightning Trainer, by name: `python examples/parallel/stock_zero.py [DEVICES] [STEPS]`.

Each rank holds a part of every weight, of its gradient and of the optimizer's state. The weights are gathered block by
block while they are needed. On the CPU ranks are processes that talk through gloo.
"""

from __future__ import annotations

import sys
from typing import Any

import lightning as L
import torch
from torch import Tensor, nn

import trustformers_pl.parallel  # noqa: F401 - after Lightning: registers the strategies `zero_1`, `zero_2`, `zero_3`

WIDTH, LENGTH = 32, 16


class NextByte(L.LightningModule):
    """A transformer that predicts the next byte of this file."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(256, WIDTH)
        # Each item of a ModuleList is gathered and freed as one; `zero(3, units=["..."])` names classes instead.
        self.blocks = nn.ModuleList(nn.TransformerEncoderLayer(WIDTH, 4, 64, 0.0, batch_first=True) for _ in range(3))
        self.head = nn.Linear(WIDTH, 256)

    def training_step(self, batch: list[Tensor]) -> Tensor:
        """The loss of a batch of windows (B, T + 1)."""
        (window,) = batch
        hidden, mask = self.embedding(window[:, :-1]), nn.Transformer.generate_square_subsequent_mask(LENGTH)
        for block in self.blocks:
            hidden = block(hidden, src_mask=mask, is_causal=True)
        loss = nn.functional.cross_entropy(self.head(hidden).flatten(0, 1), window[:, 1:].flatten())
        self.log("loss", loss, prog_bar=True)
        return loss

    def configure_optimizers(self) -> Any:
        """Over parameters that are shards already."""
        return torch.optim.AdamW(self.parameters(), lr=3e-3)


def windows() -> torch.utils.data.DataLoader[Any]:
    """This file, in windows of a fixed length."""
    with open(__file__, "rb") as file:  # noqa: PTH123
        text = torch.frombuffer(bytearray(file.read()), dtype=torch.uint8).long()
    data = torch.utils.data.TensorDataset(text.unfold(0, LENGTH + 1, 4))
    return torch.utils.data.DataLoader(data, batch_size=16, shuffle=True)


def main(devices: int = 2, steps: int = 100) -> None:
    """Train, and say what each rank holds."""
    trainer = L.Trainer(
        strategy="zero_3",
        accelerator="cpu",
        devices=devices,
        max_steps=steps,
        gradient_clip_val=1.0,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    L.seed_everything(0, verbose=False)
    module = NextByte()
    whole = sum(parameter.numel() for parameter in module.parameters())
    trainer.fit(module, windows())
    held = sum(parameter.to_local().numel() for parameter in module.parameters())
    if trainer.is_global_zero:
        loss = trainer.callback_metrics["loss"]
        print(f"{trainer.global_step} steps, loss {loss:.2f}; rank 0 holds {held} of {whole} weights")


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))
