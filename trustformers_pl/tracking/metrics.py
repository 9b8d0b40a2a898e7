"""The numbers of a training run, measured on the steps that Lightning logs and on no other."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from lightning.pytorch import Callback
from typing_extensions import override

from trustformers_pl.errors import RefusedError
from trustformers_pl.loss_window import data_ranks
from trustformers_pl.tracking.log import is_due, log_scalars
from trustformers_pl.tracking.measures import means, scalars, total_norm, window_sums
from trustformers_pl.tracking.perplexity import text_metrics
from trustformers_pl.tracking.throughput import Throughput

if TYPE_CHECKING:
    from lightning.pytorch import LightningModule, Trainer
    from torch.optim import Optimizer

    from trustformers_pl.gradients import GradientStep


def ordered_step(trainer: Trainer) -> GradientStep | None:
    """The optimizer step whose gradient norm `OrderedPrecision` has taken anyway; None with another Precision."""
    step: GradientStep | None = getattr(trainer.precision_plugin, "last_step", None)
    return step


class Metrics(Callback):
    """Logs training and validation metrics to every logger of the trainer and to `trainer.callback_metrics`.

    On the optimizer steps that Lightning logs (`Trainer(log_every_n_steps=...)`): `train_loss`, each further scalar
    that the training step returned (loss terms, under their names), `lr`, `grad_norm` and `tokens_per_second`. On all
    other steps nothing is computed and nothing is read from the device.

    After a validation of text, that is when the datamodule has a `bytes_per_token`: `val_perplexity` and
    `val_bits_per_byte`, from `val_loss` in nats per token.

    On a resume, loggers with a `truncate_after` forget what was logged after the checkpoint.

    Args:
        gradient_norm: Log `grad_norm`, the 2-norm of all gradients of the optimizer's parameters, after unscaling and
            before clipping.
        tokens_per_second: Log the elements of the loss (`count` of the training step: tokens, for a language model)
            that this rank has trained on per second since the previous log, time spent in validation left out.
        learning_rate: Log `lr`, with which the optimizer's first parameter group took the step.
    """

    measured_times = ("tokens_per_second",)

    def __init__(
        self, *, gradient_norm: bool = True, tokens_per_second: bool = True, learning_rate: bool = True
    ) -> None:
        self._gradient_norm = gradient_norm
        self._learning_rate = learning_rate
        self._throughput = Throughput() if tokens_per_second else None
        self._window: list[dict[str, float]] = []
        self._stepping: dict[str, float] | None = None

    @override
    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Refuse loss terms that would be logged under the names of these metrics.

        Raises:
            RefusedError: There is one.
        """
        own = ("lr", "grad_norm", "tokens_per_second")
        if clashing := [term.name for term in getattr(pl_module, "loss_terms", ()) if term.name in own]:
            raise RefusedError(f"metrics logs {clashing[0]!r} itself, and a loss term has that name; rename the term")

    @override
    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Start the clock; after a resume, make the loggers forget what came after the checkpoint."""
        if self._throughput:
            self._throughput.start()
        for logger in trainer.loggers if trainer.global_step else ():
            if hasattr(logger, "truncate_after"):
                logger.truncate_after(trainer.global_step)

    @override
    def on_before_optimizer_step(self, trainer: Trainer, pl_module: LightningModule, optimizer: Optimizer) -> None:
        """Measure what is only there now: the gradients, and the learning rate before the schedule moves it."""
        if not is_due(trainer):
            return
        self._stepping = {}
        if self._learning_rate:
            self._stepping["lr"] = float(optimizer.param_groups[0]["lr"])
        if self._gradient_norm and ordered_step(trainer) is None:
            self._stepping["grad_norm"] = total_norm(optimizer)

    @override
    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Keep the micro-batch's count; on a due step keep its losses, and log when the optimizer has stepped."""
        outputs = outputs if type(outputs) is dict or isinstance(outputs, Mapping) else {}
        if self._throughput and "count" in outputs:
            self._throughput.add(outputs["count"])
        if is_due(trainer):
            self._window.append(scalars(outputs))
            if self._stepping is not None:
                step = ordered_step(trainer)
                if self._gradient_norm and step is not None and step.norm is not None:
                    self._stepping["grad_norm"] = float(step.norm)
                self._log(trainer, self._stepping)

    def _log(self, trainer: Trainer, stepping: dict[str, float]) -> None:
        sums = window_sums(self._window)
        self._window, self._stepping = [], None
        if self._throughput and (speed := self._throughput.read()) is not None:
            sums["tokens_per_second"] = speed, 1 / data_ranks(trainer.lightning_module)  # the ranks' speeds add up
        metrics = means(sums, trainer) | stepping
        log_scalars(trainer, metrics)

    @override
    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Stop the clock."""
        if self._throughput:
            self._throughput.pause()

    @override
    def on_validation_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Log what follows from `val_loss`."""
        if not trainer.sanity_checking:
            # All ranks have the same `val_loss`; Lightning warns of what it does not reduce itself.
            pl_module.log_dict(dict[str, Any](text_metrics(trainer)), sync_dist=True)

    @override
    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Let the clock go on."""
        if self._throughput:
            self._throughput.go_on()

    @override
    def state_dict(self) -> dict[str, Any]:
        """The losses of an accumulation window that a checkpoint cuts in two."""
        return {"window": list(self._window)}

    @override
    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on in the middle of the window."""
        self._window = list(state_dict["window"])
