"""What strangers' features do in phases, and modules that show what became of it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import tiny
import torch
from lightning import LightningDataModule
from torch import Tensor, nn
from torch.utils.data import DataLoader

if TYPE_CHECKING:
    from trustformers_pl import PhaseContext

# One plugin: its section, phase, and what it answers with, are the `{}`s.
PLUGIN = """
import phased
from trustformers_pl import Plugin, Traits, hookimpl, part
class Feature(Plugin):
    "A stranger's feature."
    @classmethod
    def traits(cls, config):
        return Traits({traits})
    @hookimpl
    def {hook}(self, plan, phase):
        if phase == {phase!r}:
            return [{answer}]
"""


def feature(hook: str, phase: str, answer: str, traits: str = "") -> str:
    return PLUGIN.format(hook=hook, phase=phase, answer=answer, traits=traits)


class Adapter(nn.Module):
    """A frozen linear layer and a trained one beside it, which starts at zero."""

    def __init__(self, base: nn.Linear) -> None:
        super().__init__()
        self.base = base.requires_grad_(False)
        self.beside = nn.Linear(base.in_features, base.out_features, bias=False)
        nn.init.zeros_(self.beside.weight)

    def forward(self, x: Tensor) -> Tensor:
        return self.base(x) + self.beside(x)


def adapt(module: Any, context: PhaseContext) -> None:
    for parent in list(module.modules()):
        for name, child in list(parent.named_children()):
            if isinstance(child, nn.Linear) and not isinstance(parent, Adapter):
                setattr(parent, name, Adapter(child))


class Scale:
    """Multiplies all weights."""

    def __init__(self, factor: float) -> None:
        self.factor = factor

    def __call__(self, module: nn.Module, context: PhaseContext) -> None:
        with torch.no_grad():
            for parameter in module.parameters():
                parameter.mul_(self.factor)


class Shift:
    """Adds to all weights."""

    def __init__(self, amount: float) -> None:
        self.amount = amount

    def __call__(self, module: nn.Module, context: PhaseContext) -> nn.Module:
        with torch.no_grad():
            for parameter in module.parameters():
                parameter.add_(self.amount)
        return module


def compile_linears(module: nn.Module, context: PhaseContext) -> None:
    for child in module.modules():
        if isinstance(child, nn.Linear):
            child.compile(backend="eager")


def compiled(module: nn.Module) -> list[str]:
    return [name for name, child in module.named_modules() if child._compiled_call_impl is not None]


def randomise(module: nn.Module, context: PhaseContext) -> None:
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.uniform_()


LENGTHS = (5, 1, 4, 2, 3, 6)


class Sentences(LightningDataModule):
    """Sample i is `LENGTHS[i]` times the number i."""

    def train_dataloader(self) -> DataLoader[Any]:
        samples = [torch.full((length,), float(index)) for index, length in enumerate(LENGTHS)]
        return DataLoader(samples, 2, collate_fn=torch.cat)  # type: ignore[arg-type]

    def val_dataloader(self) -> DataLoader[Any]:
        return DataLoader(torch.arange(4.0), 2)  # type: ignore[arg-type]


def short_first(indices: Tensor, epoch: int, seed: int) -> Tensor:
    """A curriculum: the four shortest sentences in the first epoch, then all, by length."""
    by_length = sorted(indices.tolist(), key=lambda index: LENGTHS[index])
    return torch.tensor(by_length[:4] if epoch == 0 else by_length)


def six_tokens(indices: Tensor, batch_size: int, epoch: int, seed: int) -> list[Tensor]:
    """Token budget: as many sentences in a batch as fit into six tokens."""
    batches: list[list[int]] = []
    for index in indices.tolist():
        if not batches or sum(LENGTHS[i] for i in batches[-1]) + LENGTHS[index] > 6:
            batches.append([])
        batches[-1].append(index)
    return [torch.tensor(batch) for batch in batches]


def replay(batch: Tensor, epoch: int, step: int, seed: int) -> Tensor:
    """A remembered sample, which says when it was mixed in."""
    return torch.cat([batch, torch.tensor([100.0 * epoch + 10 * step + seed])])


class Records(tiny.Plain):
    """Keeps what it was trained and validated on."""

    def __init__(self) -> None:
        super().__init__(width=1)
        self.trained: list[list[float]] = []
        self.validated: list[list[float]] = []

    def training_step(self, batch: Tensor, batch_idx: int) -> Tensor:
        self.trained.append(batch.tolist())
        return self.layer(batch.reshape(-1, 1).float()).mean()

    def validation_step(self, batch: Tensor, batch_idx: int) -> None:
        self.validated.append(batch.tolist())


# Features over the regression of `tiny`, for exact resume.


def growing_pool(indices: Tensor, epoch: int, seed: int) -> Tensor:
    return indices[indices < 16 + 4 * epoch]


def uneven(indices: Tensor, batch_size: int, epoch: int, seed: int) -> list[Tensor]:
    """Batches of 1 to 6 samples, drawn."""
    sizes: list[int] = []
    while sum(sizes) < len(indices):
        sizes.append(int(torch.randint(1, 7, ())))
    sizes[-1] -= sum(sizes) - len(indices)
    return list(indices.split(sizes))


def mixup(batch: list[Tensor], epoch: int, step: int, seed: int) -> list[Tensor]:
    """Zhang et al. 2018, with the batch turned over as the partner."""
    share = torch.rand(())
    return [share * x + (1 - share) * x.flip(0) for x in batch]
