"""A logger that writes a CSV file which a killed and resumed run leaves without gaps and without duplicates."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from lightning.pytorch.loggers import Logger
from lightning.pytorch.utilities import rank_zero_only

from trustformers_pl.tracking.table import Table

if TYPE_CHECKING:
    from collections.abc import Mapping


def cell(value: Any) -> str:
    """Text from which the number can be read back bit for bit.

    Args:
        value: A bool, an int, or anything `float` takes: a float, a tensor of one element.

    Returns:
        The shortest text that `float` (or `int`) reads back as the same number.
    """
    return str(int(value)) if isinstance(value, int) else repr(float(value))


class CSVLogger(Logger):
    """Writes metrics to `<folder>/<name>`: columns `step`, `epoch` and a column a metric, empty where not measured.

    `step` is Lightning's: the row of the k-th optimizer step says k - 1, and so does a validation that runs right
    after it (a validation in the middle of an accumulation window after k optimizer steps says k). Metrics of one
    step share a row. A row reaches the operating system before the training goes on, so that `kill -9` loses none.

    Lightning tells a logger nothing about a resume. `trustformers_pl.tracking.Metrics` and
    `trustformers_pl.checkpoint.Checkpoint` therefore call `truncate_after`; without either, call
    `logger.truncate_after(trainer.global_step)` in a callback's `on_train_start`.

    Args:
        folder: Where the file lies; made when missing.
        name: The file's name.
    """

    def __init__(self, folder: str | Path, name: str = "metrics.csv") -> None:
        super().__init__()
        self._path = Path(folder) / name
        self._open_table: Table | None = None

    @property
    def name(self) -> str:
        """Empty: the run has one folder, and stock callbacks make a sub-folder of this name in it."""
        return ""

    @property
    def version(self) -> str:
        """Empty, for the same reason."""
        return ""

    @property
    def path(self) -> Path:
        """The file."""
        return self._path

    @property
    def save_dir(self) -> str:
        """The folder of the file; `root_dir` and `log_dir` are the same."""
        return str(self._path.parent)

    root_dir = log_dir = save_dir

    @property
    def _table(self) -> Table:
        if self._open_table is None:
            self._open_table = Table(self._path)
        return self._open_table

    @rank_zero_only
    def log_metrics(self, metrics: Mapping[str, Any], step: int | None = None) -> None:
        """Write one row, or add to the last row when it is of the same step.

        A metric that the row already holds with another value starts a second row of that step: nothing is lost.

        Args:
            metrics: Name -> number.
            step: Optimizer steps completed before the one that is logged; the last row's plus one when None.

        Raises:
            TrustformersError: The file cannot be written.
        """
        row = {name.replace("\n", " "): cell(value) for name, value in metrics.items()}
        self._table.add({"step": str(self._table.next_step if step is None else step)} | row)

    @rank_zero_only
    def log_hyperparams(self, params: Any, *args: Any, **kwargs: Any) -> None:
        """Nothing: the file holds numbers by step; the recipe holds what the run was started with."""

    @rank_zero_only
    def truncate_after(self, step: int) -> None:
        """Forget what a killed run logged after the checkpoint from which it resumes; the rewrite is atomic.

        Rows that Lightning logged for the first `step` optimizer steps stay, with the validation due after the last
        of them: those say `step - 1` and less. All later rows go, to be written again by the resumed run.

        Args:
            step: `trainer.global_step` of the checkpoint: optimizer steps completed when it was saved, after any
                validation due at that step.

        Raises:
            TrustformersError: The file cannot be written.
        """
        if self._path.exists():
            self._table.drop_from(step)

    @rank_zero_only
    def finalize(self, status: str) -> None:
        """Close the file; a later `log_metrics` opens it again.

        Args:
            status: Not used: a row is either written or it is not.
        """
        del status
        if self._open_table is not None:
            self._open_table.close()
            self._open_table = None
