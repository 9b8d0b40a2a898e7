"""A run that is told to end saves itself first, at the end of the step that it is at."""

from __future__ import annotations

import os
import signal
import threading
from typing import TYPE_CHECKING, Any

import torch
from lightning.pytorch import Callback
from typing_extensions import override

from trustformers_pl.checkpoint.callback import Checkpoint
from trustformers_pl.errors import RefusedError
from trustformers_pl.loop import EpochLoop, exact_loop
from trustformers_pl.stopped import EXIT_CODES, Stopped

if TYPE_CHECKING:
    from types import FrameType

    from lightning.pytorch import LightningModule, Trainer

EVERY_N_STEPS = 16
AGAIN = b"\ninterrupted: the run saves itself after this step and ends; interrupt it again to end it at once\n"


class SignalSaves(Callback):
    """Lets SIGTERM, SIGINT and SIGUSR1 end a fit at a step boundary, with a checkpoint and an exit code of its own.

    A handler only notes the signal. At the end of the optimizer step that runs, after a validation that is due, the
    `Checkpoint` callback saves, and `Stopped` leaves the fit: Lightning closes the loggers, and the process ends with
    143 (SIGTERM), 130 (SIGINT) or 85 (SIGUSR1: saved, to be started again). A second SIGINT is a `KeyboardInterrupt` at
    once. After the last step of a fit there is nothing left to save: it ends as if nobody had asked.

    On several ranks the signal may reach any of them: they look together, every few steps. The handlers replace
    Lightning's while the fit runs, and are taken out with them at its end. A fit outside of the main thread, where
    Python takes no handlers, runs without.

    In a stock Trainer: `Trainer(callbacks=[Checkpoint(), SignalSaves()])`.

    Args:
        every_n_steps: Optimizer steps between two looks of several ranks; a single process looks after each.

    Attributes:
        received: The signal that came, 0 before one did.
    """

    at_end_of_boundary = True

    def __init__(self, every_n_steps: int = EVERY_N_STEPS) -> None:
        self.every_n_steps = every_n_steps
        self.received = 0
        self._process = 0
        self._several = False

    @override
    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Install the loop that has step boundaries.

        Raises:
            RefusedError: Nobody saves this run.
        """
        del pl_module
        if stage != "fit":
            return
        _checkpoint(trainer)
        exact_loop(trainer)
        self.received = 0
        self._several = trainer.world_size > 1

    @override
    def on_sanity_check_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Install the handlers, as early as Lightning has installed its own."""
        del pl_module
        self._install(trainer)

    @override
    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """As before a sanity check, which not every fit has."""
        del pl_module
        self._install(trainer)

    def _install(self, trainer: Trainer) -> None:
        # Lightning's teardown puts back all handlers of before the fit, ours among them, however it ends.
        self._process = os.getpid()
        if threading.current_thread() is not threading.main_thread():
            return
        for number in EXIT_CODES:
            signal.signal(number, self._note)
        connector = trainer._signal_connector
        if connector.received_sigterm:  # between Lightning's handler and ours
            connector.received_sigterm, self.received = False, signal.SIGTERM

    def _note(self, number: int, frame: FrameType | None) -> None:
        if os.getpid() != self._process:  # a dataloader's worker, to which Ctrl-C goes as well: the run ends it
            return
        if number == signal.SIGINT:
            if self.received == signal.SIGINT:
                signal.default_int_handler(number, frame)
            os.write(2, AGAIN)
        self.received = number

    def on_step_boundary(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Save and end, if a signal came.

        Raises:
            Stopped: It did.
        """
        del pl_module
        received = self._agreed(trainer) if self._several else self.received
        if not received:
            return
        loop = trainer.fit_loop.epoch_loop
        assert isinstance(loop, EpochLoop)
        if not loop.last_step_done:
            _checkpoint(trainer).save_now(trainer)
            raise Stopped(received, trainer.global_step)

    def _agreed(self, trainer: Trainer) -> int:
        if trainer.global_step % self.every_n_steps:
            return 0
        received = torch.tensor(self.received, device=trainer.strategy.root_device)
        torch.distributed.all_reduce(received, op=torch.distributed.ReduceOp.MAX)
        return int(received)


def _checkpoint(trainer: Trainer) -> Checkpoint:
    callbacks: list[Any] = trainer.callbacks  # type: ignore[attr-defined]
    for callback in callbacks:
        if isinstance(callback, Checkpoint):
            return callback
    raise RefusedError("SignalSaves saves by the callback Checkpoint, and there is none; give the Trainer both")
