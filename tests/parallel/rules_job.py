"""What runs in the gradient order, on shards."""

from __future__ import annotations

import os
from typing import Any

import torch
from lightning import Callback, LightningModule, Trainer
from zero_job import Case, built, train, weights

from trustformers_pl.gradients import GradientPhase, GradientStep
from trustformers_pl.precision import AMP
from trustformers_pl.precision_order import gradient_order
from trustformers_pl.shards import trained

PULL = 3.0


class Anchored(Callback):
    """Pulls the weights to where they were, each as strongly as the square of what it was: a penalty as EWC's."""

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        gradient_order(trainer, "Anchored").add(GradientPhase.PENALTIES, self.pull)

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        named = trained(pl_module).items()
        self.anchors = {name: (p.detach().clone(), p.detach() ** 2) for name, p in named}

    def pull(self, step: GradientStep) -> None:
        for name, parameter in trained(step.module).items():
            start, importance = self.anchors[name]
            if parameter.grad is not None:
                parameter.grad.add_(importance * (parameter.detach() - start), alpha=PULL)


def anchored(case: Case) -> list[float]:
    return train(case, callbacks=[Anchored()])


def anchored_by_torch(module_name: str) -> list[float]:
    """The penalty as a term of the loss, differentiated by torch, in one process."""
    from torch.nn.functional import cross_entropy
    from zero_job import CLIP, GLOBAL_BATCH, SAMPLES, STEPS, dataset

    module = built(module_name, "AdamW")
    anchors = [p.detach().clone() for p in module.parameters()]
    optimizer, rows = module.configure_optimizers(), dataset()
    for step in range(STEPS):
        first = step * GLOBAL_BATCH % SAMPLES
        batch = {key: torch.stack([row[key] for row in rows[first : first + GLOBAL_BATCH]]) for key in rows[0]}
        loss = cross_entropy(module.logits_of(batch).flatten(0, 1), batch["labels"].flatten())
        pairs = zip(module.parameters(), anchors, strict=True)
        loss = loss + PULL / 2 * sum((a**2 * (p - a) ** 2).sum() for p, a in pairs)
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(module.parameters(), CLIP)
        optimizer.step()
    return weights(module)


class Overflows(Callback):
    """Lets one rank's gradients overflow in the third step: in one element of its own part, where it has one."""

    def __init__(self) -> None:
        self.scales: list[float] = []
        self.skipped: list[int] = []

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        self.precision: Any = trainer.precision_plugin
        self.precision.order.add(GradientPhase.SYNC, self.spoil)

    def spoil(self, step: GradientStep) -> None:
        if step.module.trainer.global_step == 2 and os.environ["RANK"] == "1" and not self.skipped.count(2):
            gradient: Any = next(p.grad for p in step.parameters if p.grad._local_tensor.numel())
            gradient._local_tensor.view(-1)[0] = float("inf")

    def on_train_batch_end(self, trainer: Trainer, *rest: Any) -> None:
        step = self.precision.last_step
        if step is not None and step.skip:
            self.skipped.append(trainer.global_step)
        self.scales.append(self.precision.loss_scale)


def overflown(mode: str) -> tuple[list[float], int, list[float]]:
    """The loss scales of a rank, its skipped steps, and the weights at the end."""
    seen = Overflows()
    case = Case("gpt", "AdamW", mode, 2)
    from trustformers_pl.environment import cluster_environment

    precision = AMP("fp16", initial_scale=1024.0)
    found = train(
        case, callbacks=[seen], max_steps=6, accumulate_grad_batches=1, plugins=[cluster_environment(), precision]
    )
    return seen.scales, precision.skipped_steps, found
