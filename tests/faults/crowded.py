"""Modules on a device that runs out of memory when it is told to, and their runs."""

from __future__ import annotations

import weakref
from collections.abc import Callable
from typing import Any

import lightning as L
import tiny
import torch
from lightning import LightningModule
from torch import Tensor, nn
from torch.utils.data import DataLoader

from trustformers_pl import assemble
from trustformers_pl.faults import OutOfMemorySplits
from trustformers_pl.precision_order import OrderedPrecision

Write = Callable[..., str]
RECIPE = """\
model: {class_path: crowded.Small}
data: {class_path: tiny.Data, init_args: {count: 30, batch_size: 8}}
trainer: {max_steps: 10, accelerator: cpu, limit_val_batches: 0}
optimizer: {name: adamw, lr: 0.01}
"""
ON = "out_of_memory: {max_splits: 3}\n"


class Small(tiny.Composable):
    """A device with room for `rows` samples in a forward or backward pass, from a step on, on some ranks."""

    def __init__(
        self,
        rows: int = 1000,
        where: str = "forward",
        from_step: int = 0,
        only_rank: int = -1,
        dropout: float = 0.0,
        width: int = 4,
    ) -> None:
        super().__init__(width, dropout)
        self.hidden = nn.Linear(width, width)
        self.rows, self.where, self.from_step, self.only_rank = rows, where, from_step, only_rank
        self.seen: list[int] = []
        self.losses: list[float] = []

    def forward(self, batch: list[Tensor]) -> Tensor:
        hidden = self.hidden(batch[0]).tanh()  # a graph is there already when memory runs out
        if self.training:
            self.seen.append(len(batch[0]))
            if self.where == "forward":
                self.run_out(batch)
            else:
                hidden.register_hook(lambda gradient: self.run_out(batch))
        return self.layer(self.dropout(hidden))

    def run_out(self, batch: list[Tensor]) -> None:
        late = self.trainer.global_step >= self.from_step
        if late and len(batch[0]) > self.rows and self.only_rank in (-1, self.trainer.global_rank):
            raise torch.OutOfMemoryError("injected")

    def on_train_batch_end(self, outputs: Any, batch: Any, batch_idx: int) -> None:
        self.losses.append(float(outputs["loss_sum"] / outputs["count"]))
        assert int(outputs["count"]) == len(batch[1])


class Counting(Small):
    """Says ahead what its loss counts."""

    def loss_count(self, batch: list[Tensor]) -> int:
        return len(batch[1])


class Stock(Counting):
    def configure_optimizers(self) -> Any:
        return torch.optim.SGD(self.parameters(), lr=0.1)

    def on_train_batch_end(self, outputs: Any, batch: Any, batch_idx: int) -> None:
        self.means = [*getattr(self, "means", []), float(outputs.get("small", 0))]


def trained(recipe: str, *overrides: str) -> Any:
    run = assemble(recipe, [*overrides, f"trainer.default_root_dir=run-{trained.__dict__.setdefault('n', 0)}"])
    trained.__dict__["n"] += 1
    run.fit()
    return run


def fit(module: LightningModule, steps: int, splits: int = 3, **arguments: Any) -> OutOfMemorySplits:
    callback = OutOfMemorySplits(splits)
    trainer = L.Trainer(
        max_steps=steps,
        accelerator="cpu",
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        limit_val_batches=0,
        callbacks=[callback],
        plugins=[OrderedPrecision()],
        **arguments,
    )
    trainer.fit(module, tiny.Data(30, 8, shuffle=False))
    return callback


def equal(one: LightningModule, other: LightningModule) -> None:
    for (name, value), (_, expected) in zip(one.named_parameters(), other.named_parameters(), strict=True):
        torch.testing.assert_close(value, expected, rtol=1e-5, atol=1e-6, msg=name)


class Graph(torch.autograd.Function):
    """A node that holds on to a token for as long as its graph is there."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, token: object) -> Tensor:
        ctx.token = token
        return x.clone()

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        return gradient, None


class Held(Small):
    """Counts, at each forward pass, the graphs of earlier ones that are still in memory."""

    def forward(self, batch: list[Tensor]) -> Tensor:
        token = Token()
        self.__dict__.setdefault("alive", []).append(sum(one() is not None for one in self.tokens))
        self.tokens.append(weakref.ref(token))
        return super().forward([Graph.apply(batch[0].requires_grad_(), token), *batch[1:]])

    @property
    def tokens(self) -> list[Any]:
        return self.__dict__.setdefault("kept", [])


class Token: ...


class Spoiled(Small):
    def loss(self, outputs: Tensor, batch: list[Tensor]) -> tuple[Tensor, Tensor]:
        total, count = super().loss(outputs, batch)
        first = self.trainer.fit_loop.epoch_loop.total_batch_idx == 3
        return (total * float("nan") if first and self.training else total), count


class Bad(tiny.Data):
    """The sample of the fourth batch that raises."""

    def __init__(self, count: int, batch_size: int) -> None:
        super().__init__(64, batch_size, shuffle=False)

    def train_dataloader(self) -> Any:
        loader = super().train_dataloader()
        return DataLoader(tiny.Raising(loader.dataset, {30}), self.batch_size)
