"""What the two features of these tests are made of, for recipes and for a stock Trainer, and what is compared."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import tiny
import torch
from lightning import Callback, LightningModule, Trainer
from lightning.pytorch.loggers import Logger
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from trustformers_pl.data import resumable_datamodule
from trustformers_pl.environment import cluster_environment
from trustformers_pl.run import Run
from trustformers_pl.state import State

if TYPE_CHECKING:
    from collections.abc import Iterable

    from trustformers_pl.gradients import GradientStep

if TYPE_CHECKING:
    from collections.abc import Iterable

    from trustformers_pl.gradients import GradientStep


class Change(Callback):
    """g -> factor * g + amount, just before the optimizer's step."""

    def __init__(self, factor: float, amount: float) -> None:
        self.factor, self.amount = factor, amount

    def on_before_optimizer_step(self, trainer: Trainer, module: LightningModule, optimizer: Any) -> None:
        for p in module.parameters():
            p.grad.mul_(self.factor).add_(self.amount)  # type: ignore[union-attr]


class Rule:
    """The same as a rule of the gradient order."""

    def __init__(self, factor: float, amount: float) -> None:
        self.factor, self.amount = factor, amount

    def __call__(self, step: GradientStep) -> None:
        for gradient in step.gradients:
            gradient.mul_(self.factor).add_(self.amount)


class Rows(Logger):
    """Keeps what it is given."""

    name = version = ""  # type: ignore[assignment]

    def __init__(self) -> None:
        super().__init__()
        self.rows: list[Any] = []

    def log_metrics(self, metrics: dict[str, float], step: int | None = None) -> None:
        self.rows.append((step, dict(metrics)))

    def log_hyperparams(self, *arguments: Any, **keywords: Any) -> None: ...


class Moves(Callback):
    """Moves the weights after each step by a number that grows, which it keeps as a state."""

    def __init__(self, amount: float) -> None:
        self.amount = amount

    def on_train_batch_end(self, trainer: Trainer, module: LightningModule, *rest: Any) -> None:
        self.amount *= 1.5
        with torch.no_grad():
            for p in module.parameters():
                p.add_(self.amount)

    def state(self) -> State:
        return State({"amount": self.amount})

    def load_state(self, state: State) -> None:
        self.amount = state.value["amount"]


class Typed(tiny.Composable):
    """The base recipe's module as a person types it."""

    def configure_optimizers(self) -> Any:
        return torch.optim.AdamW(self.parameters(), lr=1e-3)


def stock(max_steps: int = 1, plugins: Iterable[Any] = (), **arguments: Any) -> Trainer:
    """A stock Trainer with nothing of ours but what it is given."""
    quiet = {"logger": False, "enable_checkpointing": False, "enable_progress_bar": False}
    given = {"enable_model_summary": False, "accelerator": "cpu", **quiet, **arguments}
    return Trainer(max_steps=max_steps, plugins=[cluster_environment(), *plugins], **given)


def first_batch() -> list[Tensor]:
    """Of the base recipe: its seed decides the order of the samples."""
    return next(iter(resumable_datamodule(tiny.Data(), seed=0).train_dataloader()))  # type: ignore[no-any-return]


def as_started(module: nn.Module) -> Any:
    """With the weights that the base recipe starts from: its seed, then its module."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        module.load_state_dict(tiny.Composable().state_dict())
    return module


def data() -> DataLoader[Any]:
    """The first batch alone, for a stock Trainer."""
    batch = first_batch()
    return DataLoader(TensorDataset(*batch), len(batch[0]))


def plain_gradients() -> list[Tensor]:
    """Of the first step of the base recipe, without any plugin, by torch alone."""
    module, batch = as_started(tiny.Composable()), first_batch()
    (((module.layer(batch[0]) - batch[1]) ** 2).sum() / len(batch[1])).backward()
    return [p.grad for p in module.parameters()]


def assert_changed(run: Run | nn.Module, factor: float, amount: float) -> None:
    """The gradients of the one step are `factor * g + amount` of the plain ones."""
    module = run.module if isinstance(run, Run) else run
    for p, expected in zip(module.parameters(), plain_gradients(), strict=True):
        torch.testing.assert_close(p.grad, factor * expected + amount)
