"""Small fits that tell all one could see of them: run in the lean loop and in Lightning's own by test_loop.py."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import Any

import tiny
import torch
from lightning import Callback, LightningModule, Trainer, seed_everything
from lightning.pytorch.loops.optimization.automatic import Closure

from trustformers_pl.checkpoint import Checkpoint
from trustformers_pl.environment import cluster_environment
from trustformers_pl.parallel import Dimension, MeshStrategy, Replicate
from trustformers_pl.precision_order import OrderedPrecision
from trustformers_pl.tracking import CSVLogger, Metrics

BOTH = (
    "on_train_start", "on_train_epoch_start", "on_train_batch_start", "on_before_zero_grad", "on_before_backward",
    "on_after_backward", "on_before_optimizer_step", "on_train_batch_end", "on_validation_start", "on_validation_end",
    "on_train_epoch_end", "on_train_end",
)  # fmt: skip
MODULE = (
    "training_step", "backward", "optimizer_step", "optimizer_zero_grad", "lr_scheduler_step",
    "configure_gradient_clipping", "on_before_batch_transfer", "transfer_batch_to_device", "on_after_batch_transfer",
    "on_validation_model_zero_grad",
)  # fmt: skip


def numbers(value: Any) -> Any:
    """What is comparable of a hook's argument, or of a state."""
    if isinstance(value, torch.Tensor):
        return [str(value.dtype), value.detach().tolist()]
    if isinstance(value, dict):
        return {str(key): numbers(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [numbers(item) for item in value]
    if isinstance(value, Closure):
        return "closure"
    return value if isinstance(value, int | float | str | None) else type(value).__name__


def counters(trainer: Trainer) -> Any:
    """All of the loop's counters, and what `self.log` would take for the running hook."""
    loop = trainer.fit_loop.epoch_loop
    progress = (loop.batch_progress, loop.scheduler_progress, loop.automatic_optimization.optim_progress)
    names = (trainer.lightning_module._current_fx_name, loop._batches_that_stepped, trainer.global_step)
    return [numbers([part.state_dict() for part in progress]), names]


def recording(base: type, hooks: tuple[str, ...], calls: list[Any], who: str) -> type:
    """A class that notes each call of these hooks, and hands it on."""

    def noted(hook: str) -> Any:
        def call(self: Any, *arguments: Any, **named: Any) -> Any:
            trainer = self.trainer if isinstance(self, LightningModule) else arguments[0]
            calls.append([who, hook, numbers(arguments), numbers(named), counters(trainer)])
            return getattr(super(made, self), hook)(*arguments, **named)

        return call

    made = type(f"Recording{who}", (base,), {hook: noted(hook) for hook in hooks})
    return made


class Job(tiny.Composable):
    """Dropout, so that the random numbers count; a schedule that steps with the optimizer."""

    interval = "step"

    def __init__(self) -> None:
        super().__init__(dropout=0.3)

    def configure_optimizers(self) -> Any:
        optimizer = torch.optim.AdamW(self.parameters(), lr=0.05, fused=True)
        schedule = torch.optim.lr_scheduler.ExponentialLR(optimizer, 0.9)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": self.interval}}


class ByEpoch(Job):
    """A schedule that the lean loop leaves to Lightning."""

    interval = "epoch"


class Logs(Job):
    """Logs in every way, in most hooks; once in a while only, too."""

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        outputs = super().training_step(batch, batch_idx)
        self.log("both", outputs["loss"], on_step=True, on_epoch=True, prog_bar=True)
        self.log("epoch", outputs["loss"], on_step=False, on_epoch=True)
        if batch_idx % 4 == 1:
            self.log("seldom", float(batch_idx))
        return outputs

    def on_before_optimizer_step(self, optimizer: Any) -> None:
        self.log("weight", self.layer.weight.norm())

    def on_after_backward(self) -> None:
        self.log("gradient", self.layer.weight.grad.norm(), prog_bar=True, logger=False)


class LogsInCallback(Callback):
    def on_train_batch_start(self, trainer: Trainer, pl_module: Any, batch: Any, batch_idx: int) -> None:
        pl_module.log("before", float(batch_idx), on_epoch=True)

    def on_train_batch_end(self, trainer: Trainer, pl_module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        pl_module.log("after", outputs["loss"], prog_bar=True)


class SkipsSome(Job):
    def training_step(self, batch: Any, batch_idx: int) -> Any:
        return None if batch_idx % 3 == 1 else super().training_step(batch, batch_idx)


class LeavesEpochs(Job):
    def on_train_batch_start(self, batch: Any, batch_idx: int) -> int | None:
        return -1 if batch_idx == 5 else None


class Stops(Callback):
    def on_train_batch_end(self, trainer: Trainer, *rest: Any) -> None:
        trainer.should_stop = trainer.global_step >= 5


class Comes(Callback):
    """Puts another callback beside itself while the fit runs."""

    def __init__(self, other: Callback) -> None:
        self.other = other

    def on_after_backward(self, trainer: Trainer, *rest: Any) -> None:
        if trainer.global_step == 3 and self.other not in trainer.callbacks:
            trainer.callbacks.append(self.other)


class Doubles(Job):
    """Has a say in how the loss is differentiated, applied and clipped, and in the batches."""

    def backward(self, loss: torch.Tensor) -> None:
        (2 * loss).backward()

    def optimizer_step(self, epoch: int, batch_idx: int, optimizer: Any, optimizer_closure: Any = None) -> None:
        super().optimizer_step(epoch, batch_idx, optimizer, optimizer_closure)
        with torch.no_grad():
            self.layer.bias.mul_(0.5)

    def configure_gradient_clipping(self, optimizer: Any, gradient_clip_val: Any, gradient_clip_algorithm: Any) -> None:
        self.clip_gradients(optimizer, 0.1, "value")

    def on_after_batch_transfer(self, batch: Any, dataloader_idx: int) -> Any:
        return [batch[0] * 1.5, batch[1]]


def fit(folder: Path, module: type[Job], recorded: bool, callbacks: tuple[Callback, ...] = (), **more: Any) -> Any:
    """Run one fit and tell all of it."""
    seed_everything(1, verbose=False)
    calls: list[Any] = []
    extra: list[Callback] = list(callbacks)
    if recorded:
        module = recording(module, BOTH + MODULE, calls, "module")
        extra.append(recording(Callback, BOTH, calls, "callback")())
    model = module()
    checkpoint = Checkpoint(folder=str(folder / "checkpoints"), every_n_steps=1, keep_last=100)
    trainer = Trainer(
        accelerator="cpu", callbacks=[checkpoint, Metrics(tokens_per_second=False), *extra], logger=CSVLogger(folder),
        plugins=[cluster_environment(), OrderedPrecision()], log_every_n_steps=2, num_sanity_val_steps=0,
        enable_progress_bar=False, enable_model_summary=False, **more,
    )  # fmt: skip
    trainer.fit(model, datamodule=tiny.Data(count=30))
    files = {}
    if trainer.is_global_zero:  # which writes them
        files = {str(p.relative_to(folder)): p.read_bytes().hex() for p in sorted(folder.rglob("*")) if p.is_file()}
    metrics = {name: float(value) for name, value in trainer.callback_metrics.items()}
    shown = {name: float(value) for name, value in trainer.progress_bar_metrics.items()}
    told = {"files": files, "metrics": metrics, "shown": shown, "calls": calls, "state": trainer.fit_loop.state_dict()}
    told["weights"] = model.state_dict()
    return numbers(told), trainer.fit_loop.epoch_loop.why_stock


def both(folder: Path, *arguments: Any, **more: Any) -> tuple[Any, Any]:
    """The same fit in the lean loop and in Lightning's own: what each told, and why it ran in Lightning's."""
    os.environ.pop("TFPL_LOOP", None)
    lean = fit(folder / "lean", *arguments, **more)
    os.environ["TFPL_LOOP"] = "stock"
    try:
        return lean, fit(folder / "stock", *arguments, **more)
    finally:
        del os.environ["TFPL_LOOP"]


def on_this_rank(folder: Path) -> None:
    """Both fits under both strategies, and how often ranks were asked whether to end; as JSON."""
    asked: list[int] = []
    broadcast = torch.distributed.broadcast

    def counted(tensor: torch.Tensor, *arguments: Any, **named: Any) -> Any:
        asked.append(tensor.numel())
        return broadcast(tensor, *arguments, **named)

    torch.distributed.broadcast = counted  # type: ignore[assignment]
    for name in ("ddp", "mesh"):
        told = []
        for switch in ("lean", "stock"):
            os.environ["TFPL_LOOP"] = switch
            strategy = "ddp" if name == "ddp" else MeshStrategy([Dimension("data_parallel", wrap=Replicate())])
            before = asked.count(1)
            place = folder / f"{name}-{switch}"
            more = {"devices": 2, "strategy": strategy, "max_epochs": 9, "accumulate_grad_batches": 3}
            seen, why = fit(place, Job, True, gradient_clip_val=0.5, val_check_interval=2, **more)
            told.append({"seen": seen, "why": why, "asked": asked.count(1) - before})
        lean, stock = told
        same = [ours == theirs for ours, theirs in zip(lean["seen"]["calls"], stock["seen"]["calls"], strict=True)]
        summary = {"calls": len(same), "first_other": same.index(False) if False in same else None}
        summary |= {"equal": lean["seen"] == stock["seen"], "why": [lean["why"], stock["why"]], "asked": lean["asked"]}
        print(json.dumps(summary))


if __name__ == "__main__":
    torch.set_num_threads(1)
    on_this_rank(Path(sys.argv[1]))
