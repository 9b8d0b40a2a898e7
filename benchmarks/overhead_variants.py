"""One training job in six ways, from plain PyTorch to a recipe with the main job's callbacks."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from lightning import LightningDataModule, Trainer
from lightning.pytorch.callbacks import Callback, LearningRateMonitor, ModelCheckpoint, TQDMProgressBar
from lightning.pytorch.loggers import CSVLogger
from lightning.pytorch.plugins.environments import LightningEnvironment
from overhead_job import DECAY, LR, Job
from torch import nn
from torch.nn.functional import cross_entropy

from trustformers_pl.assembly import Live
from trustformers_pl.checkpoint import Checkpoint
from trustformers_pl.factory import assemble
from trustformers_pl.precision_order import OrderedPrecision
from trustformers_pl.tracking import Metrics, Progress

if TYPE_CHECKING:
    from collections.abc import Callable

CLIP, LOG_EVERY, NEVER = 1.0, 10, 10**9


def plain(job: Job) -> nn.Module:
    """A loop as one writes it without a framework."""
    model = job.built()
    optimizer, schedule = job.optimizer(model)
    for batch in job.loader("plain torch"):
        loss = cross_entropy(model(batch).flatten(0, 1), batch["labels"].flatten())
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), CLIP)
        optimizer.step()
        schedule.step()
    return model  # type: ignore[no-any-return]


def configured(job: Job) -> type:
    """A mixin with the job's optimizer and schedule."""

    def configure_optimizers(self: Any) -> Any:
        optimizer, schedule = job.optimizer(self)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}

    return type("Configured", (), {"configure_optimizers": configure_optimizers})


class Mean:
    """A `training_step` as users write it, without logging."""

    def training_step(self: Any, batch: Any, batch_idx: int) -> torch.Tensor:
        """The mean cross-entropy."""
        del batch_idx
        return cross_entropy(self(batch).flatten(0, 1), batch["labels"].flatten())


class LoggedMean:
    """The same with the logging that tutorials show."""

    def training_step(self: Any, batch: Any, batch_idx: int) -> torch.Tensor:
        """The mean cross-entropy, logged."""
        del batch_idx
        loss = cross_entropy(self(batch).flatten(0, 1), batch["labels"].flatten())
        self.log("train_loss", loss, prog_bar=True)
        return loss


class GradientNorm(Callback):
    """What Lightning's documentation shows for watching gradients."""

    def on_before_optimizer_step(self, trainer: Trainer, pl_module: Any, optimizer: Any) -> None:
        """Log the norm."""
        del trainer, optimizer
        pl_module.log("grad_norm", nn.utils.get_total_norm([p.grad for p in pl_module.parameters()]))


def stock(job: Job, name: str, *bases: type, **arguments: Any) -> nn.Module:
    """A stock Trainer, on a module with these bases."""
    module = job.built(*bases, configured(job))
    folder = job.folder / name.replace(" ", "-")
    callbacks = [*arguments.pop("callbacks", []), *job.extra]
    trainer = Trainer(
        accelerator="cpu", max_steps=job.steps, gradient_clip_val=CLIP, log_every_n_steps=LOG_EVERY,
        default_root_dir=folder, callbacks=callbacks, enable_model_summary=False,
        plugins=[LightningEnvironment(), *arguments.pop("plugins", [])], **arguments,
    )  # fmt: skip
    trainer.fit(module, job.loader(name))
    return module  # type: ignore[no-any-return]


BARE = {"logger": False, "enable_checkpointing": False, "enable_progress_bar": False}


def default(job: Job) -> nn.Module:
    """Stock with its defaults: a CSV logger, a bar, a checkpoint at the end of the epoch."""
    # Named, as the bar that Lightning would take by itself draws in a thread of its own where rich is installed.
    callbacks, logger = [TQDMProgressBar()], CSVLogger(job.folder / "default")
    return stock(job, "stock, default", LoggedMean, callbacks=callbacks, logger=logger)


def usual(job: Job) -> nn.Module:
    """Stock with the callbacks that most runs have."""
    name = "stock, usual callbacks"
    callbacks = [TQDMProgressBar(), LearningRateMonitor(), GradientNorm(), ModelCheckpoint(every_n_train_steps=NEVER)]
    return stock(job, name, LoggedMean, callbacks=callbacks, logger=CSVLogger(job.folder / "usual"))


def ours_in_stock(job: Job) -> nn.Module:
    """Our callbacks and Precision in a stock Trainer, our `training_step`."""
    folder = str(job.folder / "ours" / "checkpoints")
    callbacks = [Checkpoint(folder=folder, every_n_steps=NEVER), Metrics(), Progress()]
    logger = CSVLogger(job.folder / "ours")
    return stock(job, "ours, stock Trainer", callbacks=callbacks, plugins=[OrderedPrecision()], logger=logger)


class Data(LightningDataModule):
    """The job's batches for a recipe."""

    def __init__(self, job: Job, name: str) -> None:
        super().__init__()
        self.job, self.name = job, name

    def train_dataloader(self) -> Any:
        """The job's batches."""
        return self.job.loader(self.name)

    def encode(self, text: str) -> list[int]:
        """Bytes."""
        return list(text.encode())

    def decode(self, ids: list[int]) -> str:
        """Text."""
        return bytes(ids).decode(errors="replace")


def recipe(job: Job, name: str = "ours, recipe", **more: Any) -> nn.Module:
    """A recipe with the sections of the main job, and more."""
    folder = job.folder / name.replace(" ", "-")
    trainer: dict[str, Any] = {"max_steps": job.steps, "accelerator": "cpu"}
    trainer |= {"log_every_n_steps": LOG_EVERY, "default_root_dir": str(folder), "limit_val_batches": 0}
    sections = {"trainer": trainer, "optimizer": {"name": "adamw", "lr": LR, "weight_decay": DECAY}}
    sections |= {
        "schedule": {"name": "cosine", "warmup_steps": 0},
        "clip": {"norm": CLIP},
        "checkpoint": {"every_n_steps": NEVER},
    }
    sections |= {"csv": {}, "metrics": {}, "progress": {}, "samples": {"prompts": ["def "]}}
    live = Live(model=job.built(), data=Data(job, name))
    run = assemble({"version": 1, **sections, **more}, live=live)
    run.trainer.callbacks.extend(job.extra)  # type: ignore[attr-defined]
    run.fit()
    return run.module


VARIANTS: dict[str, Callable[[Job], nn.Module]] = {
    "plain torch": plain,
    "stock, bare": lambda job: stock(job, "stock, bare", Mean, **BARE),
    "stock, default": default,
    "stock, usual callbacks": usual,
    "ours, stock Trainer": ours_in_stock,
    "ours, recipe": recipe,
}
