"""Signals to a run: it saves at the end of the step, ends with the signal's exit code, and resumes bit for bit."""

from __future__ import annotations

import csv
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import tiny
import torch
from lightning import Callback, LightningModule, Trainer, seed_everything
from ranks import on_ranks

from trustformers_pl import assemble
from trustformers_pl.checkpoint import Checkpoint, resume_path
from trustformers_pl.data import resumable_datamodule
from trustformers_pl.errors import RefusedError
from trustformers_pl.faults import SignalSaves
from trustformers_pl.stopped import Stopped

Write = Callable[..., str]
RECIPE = """\
model: {class_path: tiny.Composable, init_args: {dropout: 0.3}}
data: {class_path: tiny.Data, init_args: {count: 30}}
trainer: {max_steps: 40, accelerator: cpu, log_every_n_steps: 1, val_check_interval: 6, check_val_every_n_epoch: null}
optimizer: {name: adamw, lr: 0.05}
schedule: {name: cosine, warmup_steps: 5}
accumulate: {batches: 2}
ema: {decay: 0.9}
checkpoint: {every_n_steps: 1000}
csv: {}
metrics: {tokens_per_second: false}
"""
LAST = "checkpoints/step-00000040"


class Send(Callback):
    """Sends this process signals from inside a hook, each once."""

    def __init__(self, number: int, hook: str, step: int, times: int = 1) -> None:
        self.number, self.step, self.times = number, step, times
        setattr(self, hook, self._send)

    def _send(self, trainer: Trainer, *rest: Any) -> None:
        if trainer.global_step == self.step:
            for _ in range(self.times):
                os.kill(os.getpid(), self.number)
            self.times = 0


def files(folder: Path) -> dict[str, bytes]:
    return {file.name: file.read_bytes() for file in sorted(folder.iterdir())}


def rows(folder: Path) -> list[dict[str, str]]:
    with (folder / "metrics.csv").open(newline="") as file:
        return list(csv.DictReader(file))


def uninterrupted(recipe: str) -> tuple[dict[str, bytes], list[dict[str, str]]]:
    run = assemble(recipe, ["trainer.default_root_dir=whole"])
    run.fit()
    return files(run.folder / LAST), rows(run.folder)


# A step is two of an epoch's 8 batches: after step 4 an epoch begins, after step 3 a validation is due.
MOMENTS = [
    ("on_train_batch_start", 5),
    ("on_before_backward", 5),
    ("on_before_optimizer_step", 8),
    ("on_train_batch_end", 7),
    ("on_validation_batch_start", 3),
    ("on_train_epoch_start", 4),
    ("on_train_epoch_end", 8),
]


def test_at_any_moment_it_saves_after_the_step_and_goes_on_as_if_nothing_had_been(write: Write) -> None:
    recipe = write(RECIPE)
    expected, logged = uninterrupted(recipe)
    handlers = [signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1)]
    for number, (hook, step) in enumerate(MOMENTS):
        folder = Path(f"cut-{number}")
        run = assemble(recipe, [f"trainer.default_root_dir={folder}"])
        run.trainer.callbacks.append(Send(signal.SIGTERM, hook, step))  # type: ignore[attr-defined]
        with pytest.raises(Stopped, match="stopped by SIGTERM after step") as stopped:
            run.fit()
        assert stopped.value.code == 143
        assert step <= stopped.value.steps <= step + 1
        assert resume_path(folder / "checkpoints") == str(folder / f"checkpoints/step-{stopped.value.steps:08d}")
        assert handlers == [signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1)]
        assemble(recipe, [f"trainer.default_root_dir={folder}"]).fit()
        assert files(folder / LAST) == expected, (hook, step)
        assert rows(folder) == logged, (hook, step)


def test_a_checkpoint_that_was_due_at_that_step_is_saved_once(write: Write, monkeypatch: pytest.MonkeyPatch) -> None:
    saved: list[int] = []
    save = Checkpoint._save
    monkeypatch.setattr(
        Checkpoint, "_save", lambda self, trainer: (saved.append(trainer.global_step), save(self, trainer))
    )
    run = assemble(write(RECIPE), ["checkpoint.every_n_steps=3"])
    run.trainer.callbacks.append(Send(signal.SIGUSR1, "on_train_batch_start", 5))  # type: ignore[attr-defined]
    with pytest.raises(Stopped, match="please start it again") as stopped:
        run.fit()
    assert stopped.value.code == 85
    assert saved == [3, 6]


def test_a_signal_in_the_last_step_changes_nothing(write: Write) -> None:
    run = assemble(write(RECIPE))
    run.trainer.callbacks.append(Send(signal.SIGTERM, "on_train_batch_start", 39))  # type: ignore[attr-defined]
    run.fit()
    assert run.trainer.global_step == 40
    assert (run.folder / "outcome.json").exists()


def test_a_second_interrupt_ends_at_once(write: Write) -> None:
    run = assemble(write(RECIPE))
    run.trainer.callbacks.append(Send(signal.SIGINT, "on_before_backward", 5, times=2))  # type: ignore[attr-defined]
    with pytest.raises(SystemExit) as left:  # Lightning's, for a KeyboardInterrupt
        run.fit()
    assert not isinstance(left.value, Stopped)
    assert run.trainer.global_step == 5
    assert not list((run.folder / "checkpoints").glob("step-*"))


def test_a_validation_is_made_to_its_end_however_often_one_is_told(write: Write) -> None:
    """Its metrics are of all batches, as those of a run that was not stopped; a second SIGTERM changes nothing."""
    recipe = write(RECIPE)
    _, logged = uninterrupted(recipe)
    run = assemble(recipe)
    run.trainer.callbacks.append(Send(signal.SIGTERM, "on_validation_batch_start", 3, times=2))  # type: ignore[attr-defined]
    with pytest.raises(Stopped) as stopped:
        run.fit()
    assert stopped.value.steps == 3
    (validated,) = (row["val_loss"] for row in rows(run.folder) if row["val_loss"])
    assert validated == next(row["val_loss"] for row in logged if row["val_loss"])


class Stock(tiny.Composable):
    def configure_optimizers(self) -> Any:
        return torch.optim.SGD(self.parameters(), lr=0.1, momentum=0.9)


def stock(folder: str, *callbacks: Callback) -> LightningModule:
    seed_everything(1, verbose=False)
    module = Stock(dropout=0.3)
    trainer = Trainer(
        max_steps=20,
        accelerator="cpu",
        logger=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        callbacks=[SignalSaves(), Checkpoint(folder=folder, every_n_steps=100), *callbacks],
    )
    trainer.fit(module, resumable_datamodule(tiny.Data(count=30), seed=1), ckpt_path=resume_path(folder))
    return module


def test_in_a_stock_trainer() -> None:
    whole = stock("whole")
    with pytest.raises(Stopped) as stopped:
        stock("cut", Send(signal.SIGINT, "on_train_batch_start", 11))
    assert (stopped.value.code, stopped.value.steps) == (130, 12)
    resumed = stock("cut")
    assert all(torch.equal(value, resumed.state_dict()[name]) for name, value in whole.state_dict().items())
    with pytest.raises(RefusedError, match="there is none; give the Trainer both"):
        Trainer(max_steps=1, accelerator="cpu", logger=False, callbacks=[SignalSaves()]).fit(Stock(), tiny.Data())


def test_processes_end_with_the_exit_code_of_the_signal(write: Write) -> None:
    """One run of several processes: each is signalled while it trains, the last one comes to the end."""
    recipe = write(RECIPE)
    overrides = ["--trainer.max_steps=1200", "--schedule.warmup_steps=10"]
    before = 0
    for number, code in ((signal.SIGTERM, 143), (signal.SIGINT, 130), (signal.SIGUSR1, 85)):
        process = subprocess.Popen(
            [sys.executable, "-m", "trustformers_pl.cli", "fit", recipe, *overrides],
            env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
            stderr=subprocess.PIPE,
            text=True,
        )
        wait_for_rows("runs/recipe", before)
        process.send_signal(number)
        _, errors = process.communicate(timeout=60)
        assert process.returncode == code, errors
        *_, said = errors.splitlines()
        assert said.startswith(f"stopped by {number.name} after step ")
        assert "Traceback" not in errors
        step = int(said.partition("after step ")[2].partition(":")[0])
        assert resume_path("runs/recipe/checkpoints") == f"runs/recipe/checkpoints/step-{step:08d}"
        assert before < step < 1200
        before = step
    end = [override.removeprefix("--") for override in overrides]
    assemble(recipe, end).fit()
    assemble(recipe, [*end, "trainer.default_root_dir=whole"]).fit()
    last = "checkpoints/step-00001200"
    assert files(Path("runs/recipe") / last) == files(Path("whole") / last)


def wait_for_rows(folder: str, step: int, seconds: float = 60.0) -> None:
    """Until a run has logged steps after one."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        path = Path(folder) / "metrics.csv"
        if path.exists() and len(path.read_text().splitlines()) > step + 20:
            return
        time.sleep(0.02)
    raise AssertionError(f"{folder}: no step after {step} in {seconds} s")


def test_two_ranks_stop_together_when_either_is_told_to() -> None:
    job = f"""
        import os, signal, sys
        sys.path.insert(0, {str(Path(tiny.__file__).parent)!r})
        from lightning import Callback
        from trustformers_pl import assemble
        from trustformers_pl.recipe import Recipe
        from trustformers_pl.stopped import Stopped

        class Send(Callback):
            def on_before_backward(self, trainer, *rest):
                if trainer.global_rank == 1 and trainer.global_step == 5:
                    os.kill(os.getpid(), signal.SIGTERM)

        def run(folder, told=False):
            made = assemble({{
                "model": {{"class_path": "tiny.Composable", "init_args": {{"dropout": 0.3}}}},
                "data": {{"class_path": "tiny.Data"}},
                "trainer": {{"max_steps": 40, "accelerator": "cpu", "devices": 2, "default_root_dir": folder,
                             "limit_val_batches": 0}},
                "optimizer": {{"name": "sgd", "lr": 0.1}}, "ddp": {{}}, "checkpoint": {{"every_n_steps": 1000}}}})
            if told:
                made.trainer.callbacks.append(Send())
            try:
                made.fit()
            except Stopped as stopped:
                return stopped
            return [value.tolist() for value in made.module.state_dict().values()]

        whole = run("whole")
        stopped = run("cut", told=True)
        assert isinstance(stopped, Stopped), stopped
        print(stopped.steps, stopped.code, whole == run("cut"))
    """
    assert on_ranks(2, job) == ["16 143 True\n", "16 143 True\n"]


class Told(tiny.Composable):
    def on_before_zero_grad(self, optimizer: Any) -> None:
        if self.trainer.global_step == 2:
            os.kill(os.getpid(), signal.SIGTERM)


@pytest.mark.parametrize(
    ("more", "said"),
    [
        ((), "stopped by SIGTERM after step 3: saved, the same command goes on from there"),
        (("--no-checkpoint",), "stopped by SIGTERM; nothing was saved, as there is no section `checkpoint`"),
    ],
)
def test_the_command_says_what_became_of_the_run(
    write: Write, command: Callable[..., Any], more: tuple[str, ...], said: str
) -> None:
    code, _, errors = command("fit", write(RECIPE), "--model.class_path=test_signals.Told", *more)
    assert code == 143
    assert errors.splitlines()[-1] == said
