"""One training of a recipe in this process, and everything of it that must be equal in another."""

from __future__ import annotations

import csv
import hashlib
import os
import signal
import sys
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from lightning import Callback
from torch import Tensor
from torch.distributed.tensor import DTensor

from trustformers_pl.factory import assemble
from trustformers_pl.gathering import map_tensors

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator, Mapping, Sequence
    from pathlib import Path

    from lightning import LightningModule, Trainer

    from trustformers_pl.run import Resume, Run

Fingerprint = dict[str, str]
THREADS = "OMP_NUM_THREADS"


@dataclass(frozen=True)
class Trial:
    """A training that has ended.

    Attributes:
        run: What was trained.
        state: Fingerprints of all weights (`weights.NAME`), whole also where they were sharded, and of the optimizers'
            state (`optimizer.PLACE`).
        logged: Of each column of `metrics.csv`, where there is one.
        evidence: What each feature's `probe` says.
    """

    run: Run
    state: Fingerprint
    logged: Fingerprint
    evidence: dict[str, str | None]


class Die(Callback):
    """Kills its process after a step, as the machine would.

    Args:
        after_step: Optimizer step.
    """

    def __init__(self, after_step: int) -> None:
        self.after_step = after_step

    def on_train_batch_end(self, trainer: Trainer, *arguments: Any) -> None:
        """Die."""
        del arguments
        if trainer.global_step == self.after_step:
            os.kill(os.getpid(), signal.SIGKILL)


class Fail(Callback):
    """Raises in the middle of training.

    Args:
        after_step: Optimizer step.
    """

    def __init__(self, after_step: int) -> None:
        self.after_step = after_step

    def on_train_batch_end(self, trainer: Trainer, *arguments: Any) -> None:
        """Raise.

        Raises:
            DeliberateError: After the step.
        """
        del arguments
        if trainer.global_step == self.after_step:
            raise DeliberateError


class DeliberateError(Exception):
    """What `Fail` raises."""


def train(
    sections: Mapping[str, Any],
    folder: Path | str,
    *,
    resume: Resume = "auto",
    also: Sequence[Callback] = (),
    measured: Collection[str] = (),
) -> Trial:
    """Assemble a recipe, train it, and take its fingerprints; a process group that it makes is closed again.

    Args:
        sections: The recipe.
        folder: The run folder.
        resume: As `Run.fit` takes it.
        also: Callbacks that the recipe does not know of; called first.
        measured: Columns of `metrics.csv` that hold times or the like, and differ from run to run.
    """
    run = assemble({**sections, "trainer": {**sections["trainer"], "default_root_dir": str(folder)}})
    run.trainer.callbacks[:0] = also  # type: ignore[attr-defined]
    with _on_one_thread(), _process_group_of_its_own():
        run.fit(resume)
        state = {**weights(run.module), **_optimizers(run.trainer)}
        return Trial(run, state, _logged(run.folder, measured), run.probe())


@contextmanager
def _on_one_thread() -> Iterator[None]:
    """As the ranks are: another number of threads adds up in another order."""
    variable, threads = os.environ.get(THREADS), torch.get_num_threads()
    os.environ[THREADS] = "1"
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)
        if variable is None:
            os.environ.pop(THREADS, None)
        else:
            os.environ[THREADS] = variable


@contextmanager
def _process_group_of_its_own() -> Iterator[None]:
    """Close the group that a run leaves for the next one, and take back what it wrote into the environment."""
    before, hook = dict(os.environ), sys.excepthook
    there = torch.distributed.is_initialized()
    try:
        yield
    finally:
        if torch.distributed.is_initialized() and not there:
            torch.distributed.destroy_process_group()
            sys.excepthook = hook  # torch's own, which names the rank
            os.environ.clear()
            os.environ.update(before)


def weights(module: LightningModule) -> Fingerprint:
    """Of every tensor in the module's `state_dict`. Collective where weights are sharded."""
    return {f"weights.{name}": digest(value) for name, value in module.state_dict().items()}


def _optimizers(trainer: Trainer) -> Fingerprint:
    found: Fingerprint = {}

    def note(tensor: Tensor, where: str) -> None:
        found[where] = digest(tensor)

    for number, optimizer in enumerate(trainer.optimizers):
        map_tensors(note, optimizer.state_dict(), f"optimizer.{number}")
    return found


def _logged(folder: Path, measured: Collection[str]) -> Fingerprint:
    path = folder / "metrics.csv"
    if not path.exists():
        return {}
    with path.open(newline="") as file:
        rows = list(csv.DictReader(file))
    columns = [column for column in (rows[0] if rows else {}) if column not in measured]
    return {f"logged.{column}": repr([row[column] for row in rows]) for column in columns}


def digest(value: Any) -> str:
    """Of a tensor's type, shape and bits, on whatever device and however sharded; of another value, its `repr`."""
    if not isinstance(value, Tensor):
        return repr(value)
    whole = value.full_tensor() if isinstance(value, DTensor) else value
    flat = whole.detach().cpu().contiguous().reshape(-1)
    content = flat.view(torch.uint8).numpy().tobytes()
    return f"{flat.dtype}{list(whole.shape)} {hashlib.sha256(content).hexdigest()[:16]}"


def finite(module: LightningModule) -> list[str]:
    """Names of the tensors in the module's `state_dict` that hold a NaN or an infinity."""
    return [name for name, value in module.state_dict().items() if not bool(torch.isfinite(value).all())]


def differences(one: Fingerprint, other: Fingerprint, only: Collection[str] | None = None) -> list[str]:
    """Names whose fingerprints differ, or which one of the two lacks; `only` leaves out all other names."""
    names = dict.fromkeys([*one, *other] if only is None else only)
    return [name for name in names if one.get(name) != other.get(name)]
