"""Lightning's TensorBoard logger, with event files that a killed and resumed run leaves without gaps or repetitions."""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lightning.fabric.loggers.logger import rank_zero_experiment
from lightning.fabric.utilities.logger import _convert_params, _flatten_dict
from lightning.pytorch import loggers
from lightning.pytorch.utilities import rank_zero_only
from typing_extensions import override

from trustformers_pl.errors import PluginError

try:
    from tensorboard.compat.proto.event_pb2 import Event, SessionLog  # type: ignore[import-untyped]
    from torch.utils.tensorboard.summary import hparams
except ImportError as error:
    raise PluginError(f"tensorboard needs {error.name}; pip install 'trustformers-pl[tensorboard]'") from error

if TYPE_CHECKING:
    from collections.abc import Mapping


class TensorBoardLogger(loggers.TensorBoardLogger):
    """Writes event files to one folder, from which TensorBoard draws one run however often it was resumed.

    Differs from Lightning's own in three ways. What was logged reaches the operating system before the training goes
    on, so that `kill -9` loses no row of before the checkpoint. `truncate_after` writes the mark by which TensorBoard
    takes out what a resume makes again (what `SummaryWriter(purge_step=...)` writes when a file is opened). And the
    hyperparameters are those given here, without a placeholder metric.

    Numbers are of single precision in an event file, and `step` is Lightning's, as in `CSVLogger`.

    Args:
        folder: Where the event files lie; made when missing.
        hyperparameters: Name -> value, for TensorBoard's HPARAMS page; None takes those of the module.
    """

    def __init__(self, folder: str | Path, *, hyperparameters: Mapping[str, Any] | None = None) -> None:
        super().__init__(str(folder), name="", version="", default_hp_metric=False)
        self._hyperparameters = None if hyperparameters is None else dict(hyperparameters)
        self.rows = 0

    @property
    @override
    @rank_zero_experiment
    def experiment(self) -> Any:
        """Lightning's `SummaryWriter`.

        TensorBoard reads files in the order of their names, which begin with the second in which each was opened and
        end with the process: of two in one second the later could come first, and its mark would be lost. A run that is
        started again that soon waits for the next second.
        """
        while self._experiment is None and any(Path(self.log_dir).glob(f"events.out.tfevents.{int(time.time())}.*")):
            time.sleep(0.05)
        return super().experiment

    @override
    @rank_zero_only
    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        """Write a row, and wait until the operating system has it."""
        super().log_metrics(metrics, step)
        self.experiment.flush()
        self.rows += 1

    @override
    @rank_zero_only
    def log_hyperparams(self, params: Any, metrics: dict[str, Any] | None = None, step: int | None = None) -> None:
        """Write the hyperparameters, once a fit."""
        shown = params if self._hyperparameters is None else self._hyperparameters
        flat = self._sanitize_params(_flatten_dict(_convert_params(shown)))
        writer = self.experiment._get_file_writer()
        for summary in hparams(flat, metrics or {}):  # type: ignore[no-untyped-call]
            writer.add_summary(summary, step)

    @override
    @rank_zero_only
    def save(self) -> None:
        """Nothing more than is written already; the run folder has the recipe, and needs no `hparams.yaml`."""
        self.experiment.flush()

    @rank_zero_only
    def truncate_after(self, step: int) -> None:
        """Let TensorBoard forget what a killed run logged after the checkpoint from which it resumes.

        Args:
            step: `trainer.global_step` of the checkpoint: rows of this step number and later are logged again. 0 where
                the run begins anew: there is something to forget only where an earlier attempt has left a file.
        """
        writer = self.experiment._get_file_writer()
        if step or len(list(Path(self.log_dir).glob("events.out.tfevents.*"))) > 1:
            writer.add_event(Event(step=step, session_log=SessionLog(status=SessionLog.START)))

    @override
    @rank_zero_only
    def finalize(self, status: str) -> None:
        """Close the file; a later `log_metrics` opens another one."""
        super().finalize(status)
        self._experiment = None
