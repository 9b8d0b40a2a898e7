"""A small training that runs on any number of ranks, in each way that a mesh knows, and by torch alone in one process."""

from __future__ import annotations

import functools
import logging
import os
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from lightning import LightningModule, Trainer
from torch import nn
from torch.nn.functional import cross_entropy
from torch.utils.data import DataLoader, Sampler

from trustformers_pl.environment import cluster_environment
from trustformers_pl.loop import exact_loop
from trustformers_pl.mesh import Dimension
from trustformers_pl.models import GPT
from trustformers_pl.optim import LAMB, Adafactor, AdamW
from trustformers_pl.parallel import MeshStrategy, data_parallel, zero
from trustformers_pl.precision import AMP

if TYPE_CHECKING:
    from collections.abc import Iterator

VOCABULARY, LENGTH, SAMPLES, GLOBAL_BATCH = 32, 8, 64, 8
STEPS, CLIP, MICRO = 20, 0.5, 2
OPTIMIZERS: dict[str, Any] = {
    # A parameter whose true gradient is zero would turn into noise with a smaller eps.
    "AdamW": lambda parameters: AdamW(parameters, lr=1e-2, eps=1e-4),
    "LAMB": lambda parameters: LAMB(parameters, lr=1e-2, eps=1e-4),
    "Adafactor": lambda parameters: Adafactor(parameters, lr=1e-2),
}
MODES: dict[str, Any] = {
    "ddp": data_parallel,
    "ddp, sync_every": functools.partial(data_parallel, sync_every=1),
    "zero 1": functools.partial(zero, 1, bucket_size_mb=1),
    "zero 2": functools.partial(zero, 2, bucket_size_mb=1),
    "zero 3": functools.partial(zero, 3),
    "zero 1, whole sums": functools.partial(zero, 1, reduce_scatter=False, overlap_comm=False),
    "zero 2, offloaded": functools.partial(zero, 2, offload_optimizer=True),
    "zero 3, offloaded": functools.partial(zero, 3, offload_optimizer=True),
    "zero 3, weights offloaded": functools.partial(zero, 3, offload_params=True),
}


@dataclass(frozen=True)
class Case:
    """One way to train.

    Attributes:
        module: `gpt`, ours, whose loss is a sum and a count; or `encoder`, torch's own layers with a `training_step`.
        optimizer: One of `OPTIMIZERS`.
        mode: One of `MODES`; `+ copies` after it makes two copies of what it shards.
        ranks: Real ones.
        precision: `dtype level` of `AMP`.
    """

    module: str
    optimizer: str
    mode: str
    ranks: int
    precision: str = "fp32 O0"


def dataset() -> list[dict[str, torch.Tensor]]:
    generator = torch.Generator().manual_seed(1)
    rows = torch.randint(VOCABULARY, (SAMPLES, LENGTH + 1), generator=generator)
    return [{"input_ids": row[:-1].clone(), "labels": row[1:].clone()} for row in rows]


class OfRank(Sampler[int]):
    """A rank's share of each micro-batch."""

    def __init__(self, rank: int, ranks: int, rows: int) -> None:
        self.indices = [i for i in range(SAMPLES) if i // rows % ranks == rank]

    def __iter__(self) -> Iterator[int]:
        return iter(self.indices)

    def __len__(self) -> int:
        return len(self.indices)


class Configured:
    """A module with an optimizer by name."""

    optimizer_name = "AdamW"

    def configure_optimizers(self: Any) -> Any:
        return OPTIMIZERS[self.optimizer_name](self.parameters())


class OurGPT(Configured, GPT):
    """Odd sizes, so that shards are uneven and some are empty."""

    def __init__(self) -> None:
        super().__init__(vocab_size=VOCABULARY, d_model=12, n_layers=2, n_heads=2, context_length=LENGTH)

    def logits_of(self, batch: Any) -> torch.Tensor:
        return self(batch)  # type: ignore[no-any-return]


class Encoder(Configured, LightningModule):
    """Not ours: torch's layers, a `training_step` that returns a mean."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(VOCABULARY, 10)
        layer = nn.TransformerEncoderLayer(10, 2, 18, dropout=0.0, batch_first=True)
        self.encoder = nn.TransformerEncoder(layer, 2)
        self.head = nn.Linear(10, VOCABULARY)
        self.scale = nn.Parameter(torch.ones(3))
        self.unused = nn.Parameter(torch.ones(5))

    def logits_of(self, batch: Any) -> torch.Tensor:
        return self.head(self.encoder(self.embedding(batch["input_ids"]))) * self.scale.prod()

    def training_step(self, batch: Any, batch_idx: int) -> torch.Tensor:
        return cross_entropy(self.logits_of(batch).flatten(0, 1), batch["labels"].flatten())


MODULES: dict[str, Any] = {"gpt": OurGPT, "encoder": Encoder}


def built(name: str, optimizer: str) -> Any:
    torch.set_num_threads(1)
    torch.manual_seed(0)
    module = MODULES[name]()
    module.optimizer_name = optimizer
    return module


def by_torch(module_name: str, optimizer_name: str) -> list[float]:
    """The same training by torch alone: whole batches in one process, its own clipping."""
    module = built(module_name, optimizer_name)
    optimizer = module.configure_optimizers()
    rows = dataset()
    for step in range(STEPS):
        first = step * GLOBAL_BATCH % SAMPLES
        batch = {key: torch.stack([row[key] for row in rows[first : first + GLOBAL_BATCH]]) for key in rows[0]}
        optimizer.zero_grad()
        cross_entropy(module.logits_of(batch).flatten(0, 1), batch["labels"].flatten()).backward()
        nn.utils.clip_grad_norm_(module.parameters(), CLIP)
        optimizer.step()
    return weights(module)


def strategy(case: Case) -> Any:
    if case.mode == "one process":
        return "auto"
    name, _, copies = case.mode.partition(" + ")
    if not copies:
        return MeshStrategy(MODES[name]())
    return MeshStrategy([Dimension("replicate", 2, data=True), MODES[name](case.ranks // 2)])


def train(case: Case, **more: Any) -> list[float]:
    """One rank's training; the whole weights at its end."""
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    module = built(case.module, case.optimizer)
    dtype, level = case.precision.split()
    arguments: dict[str, Any] = {
        "accelerator": "cpu", "devices": case.ranks, "strategy": strategy(case), "max_steps": STEPS,
        "gradient_clip_val": CLIP, "accumulate_grad_batches": MICRO, "logger": False, "enable_checkpointing": False,
        "enable_progress_bar": False, "enable_model_summary": False, "use_distributed_sampler": False,
        "plugins": [cluster_environment(), AMP(dtype, opt_level=level)],
    }  # fmt: skip
    rows = GLOBAL_BATCH // MICRO // case.ranks
    loader = DataLoader(dataset(), rows, sampler=OfRank(int(os.environ.get("RANK", 0)), case.ranks, rows))  # type: ignore[arg-type]
    exact_loop(Trainer(**{**arguments, **more})).fit(module, loader)
    return weights(module)


def weights(module: nn.Module) -> list[float]:
    parameters = (parameter.detach() for parameter in module.parameters())
    whole = [p.full_tensor() if hasattr(p, "full_tensor") else p for p in parameters]
    return torch.cat([tensor.float().flatten() for tensor in whole]).tolist()
