"""Going back to a checkpoint in the middle of a run: against a plain PyTorch loop, and beside an uninterrupted run."""

from __future__ import annotations

import logging
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import tiny
import torch
from lightning import Callback, LightningModule, Trainer
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from test_signals import Send, files, rows
from torch.utils.data import DataLoader, TensorDataset

from trustformers_pl import assemble
from trustformers_pl.checkpoint import Checkpoint, resume_path
from trustformers_pl.data import resumable_datamodule
from trustformers_pl.errors import NonFiniteError, RefusedError
from trustformers_pl.faults import RollBack
from trustformers_pl.faults.going_back import are_finite, go_back
from trustformers_pl.precision_order import OrderedPrecision
from trustformers_pl.stopped import Stopped

Write = Callable[..., str]
BAD = 17
RECIPE = """\
model: {class_path: tiny.Composable, init_args: {dropout: 0.3}}
data: {class_path: test_roll_back.Poisoned, init_args: {count: 60}}
trainer: {max_steps: 40, accelerator: cpu, log_every_n_steps: 1, val_check_interval: 6, check_val_every_n_epoch: null}
optimizer: {name: adamw, lr: 0.05}
schedule: {name: cosine, warmup_steps: 5}
finite: {policy: roll_back, max_rollbacks: 30, skip_batches: 2}
ema: {decay: 0.9}
checkpoint: {every_n_steps: 4}
csv: {}
metrics: {tokens_per_second: false}
"""


class Poisoned(tiny.Data):
    """One of its samples is not finite."""

    def train_dataloader(self) -> DataLoader[Any]:
        x, y = tiny.samples(self.count).tensors
        x = x.clone()
        x[BAD] = float("nan")
        return DataLoader(TensorDataset(x, y), self.batch_size, shuffle=self.shuffle)


class Model(tiny.Composable):
    def __init__(self) -> None:
        torch.manual_seed(0)
        super().__init__()

    def configure_optimizers(self) -> Any:
        optimizer = torch.optim.SGD(self.parameters(), lr=0.05, momentum=0.9)
        schedule = torch.optim.lr_scheduler.StepLR(optimizer, step_size=2, gamma=0.9)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}


def stock(*callbacks: Callback, steps: int = 12, every: int = 3, module: LightningModule | None = None) -> Trainer:
    trainer = Trainer(
        max_steps=steps,
        accelerator="cpu",
        logger=False,
        limit_val_batches=0,
        enable_progress_bar=False,
        enable_model_summary=False,
        callbacks=[*callbacks, Checkpoint(folder="checkpoints", every_n_steps=every)],
        plugins=[OrderedPrecision()],
    )
    trainer.fit(module or Model(), resumable_datamodule(Poisoned(count=80, shuffle=False), seed=0))
    return trainer


def plain(batches: list[int]) -> torch.nn.Linear:
    """A plain PyTorch loop over these batches of the same data."""
    module = Model()
    x, y = tiny.samples(80).tensors
    optimizer = torch.optim.SGD(module.parameters(), lr=0.05, momentum=0.9)
    schedule = torch.optim.lr_scheduler.StepLR(optimizer, step_size=2, gamma=0.9)
    for batch in batches:
        part = slice(4 * batch, 4 * batch + 4)
        optimizer.zero_grad()
        ((module.layer(x[part]) - y[part]) ** 2).mean().backward()
        optimizer.step()
        schedule.step()
    return module.layer


@pytest.mark.parametrize(
    ("skipped", "trained"),
    [
        # The bad sample is in batch 4; the newest checkpoint is of step 3, after batches 0 to 2.
        (0, [0, 1, 2, *range(5, 14)]),
        # Two steps more are left out, which count as steps.
        (2, [0, 1, 2, *range(7, 14)]),
    ],
)
def test_it_goes_on_from_the_checkpoint_with_the_data_that_follow(
    skipped: int, trained: list[int], caplog: pytest.LogCaptureFixture
) -> None:
    back = RollBack(skip_batches=skipped)
    with caplog.at_level(logging.WARNING, "trustformers_pl.faults"):
        trainer = stock(back)
    assert trainer.global_step == 12
    assert back.rollbacks.done == 1
    assert "optimizer step 5: the gradients are not finite; gone back to step-00000003 (1 of 3)" in caplog.text
    expected, layer = plain(trained), trainer.lightning_module.layer
    torch.testing.assert_close(layer.weight, expected.weight, rtol=1e-6, atol=1e-7)  # type: ignore[union-attr]
    torch.testing.assert_close(layer.bias, expected.bias, rtol=1e-6, atol=1e-7)  # type: ignore[union-attr]


def test_before_there_is_a_checkpoint_the_step_alone_is_left_out() -> None:
    back = RollBack()
    trainer = stock(back, every=100)
    assert back.rollbacks.done == 1
    expected, layer = plain([0, 1, 2, 3, *range(5, 12)]), trainer.lightning_module.layer
    torch.testing.assert_close(layer.weight, expected.weight, rtol=1e-6, atol=1e-7)  # type: ignore[union-attr]


class Spoil(Callback):
    """Makes the weights infinite once, as an update that overflows does, after `step`."""

    def __init__(self, step: int) -> None:
        self.step: int | None = step

    def on_train_batch_end(self, trainer: Trainer, pl_module: LightningModule, *rest: Any) -> None:
        if trainer.global_step == self.step:
            self.step = None
            with torch.no_grad():
                pl_module.layer.weight.fill_(float("inf"))  # type: ignore[operator, union-attr]


def test_weights_that_are_not_finite_are_never_saved_over_finite_ones() -> None:
    back = RollBack()
    trainer = stock(back, Spoil(6), every=3)  # a checkpoint is due right there
    assert back.rollbacks.done == 2  # and once for the bad sample
    assert trainer.global_step == 12
    newest = resume_path("checkpoints")
    assert newest == "checkpoints/step-00000012"
    assert are_finite(trainer.strategy.load_checkpoint(newest)["state_dict"].values())


def test_what_cannot_go_back_stops_in_one_line() -> None:
    with pytest.raises(NonFiniteError, match="optimizer step 2: the weights are not finite; no checkpoint has finite"):
        stock(RollBack(), Spoil(2), every=100)
    with pytest.raises(NonFiniteError, match=r"the run has gone back 1 times already \(max_rollbacks\)"):
        stock(RollBack(max_rollbacks=1), Spoil(6))
    bare = Trainer(max_steps=1, accelerator="cpu", logger=False, plugins=[OrderedPrecision()], callbacks=[RollBack()])
    with pytest.raises(RefusedError, match="RollBack goes back to checkpoints, and nobody saves any"):
        bare.fit(Model(), tiny.Data())


def test_a_run_that_goes_back_resumes_bit_for_bit(write: Write) -> None:
    """Stopped before, at and after steps at which it went back: 15 batches an epoch, one of them bad."""
    recipe = write(RECIPE)
    run = assemble(recipe, ["trainer.default_root_dir=whole"])
    run.fit()
    expected, logged = files(Path("whole/checkpoints/step-00000040")), rows(Path("whole"))
    assert run.probe()["finite"] in [f"gone back {times} times" for times in (2, 3, 4)]
    assert [int(row["step"]) for row in logged if row.get("train_loss")] == list(range(40))
    for cut in (3, 9, 14, 22, 31):
        folder = Path(f"cut-{cut}")
        stopped = assemble(recipe, [f"trainer.default_root_dir={folder}"])
        stopped.trainer.callbacks.append(Send(signal.SIGTERM, "on_train_batch_start", cut))  # type: ignore[attr-defined]
        with pytest.raises(Stopped):
            stopped.fit()
        assemble(recipe, [f"trainer.default_root_dir={folder}"]).fit()
        assert files(folder / "checkpoints/step-00000040") == expected, cut
        assert rows(folder) == logged, cut


def test_what_was_logged_after_the_checkpoint_is_drawn_once(write: Write) -> None:
    """Read by TensorBoard's own reader, beside the table of the same run."""
    run = assemble(write(RECIPE, more="tensorboard: {}\n"))
    run.fit()
    assert run.probe()["finite"] != "gone back 0 times"
    read = EventAccumulator(str(run.folder / "tensorboard"), size_guidance={"scalars": 0})
    read.Reload()
    table = [(int(row["step"]), float(row["train_loss"])) for row in rows(run.folder) if row["train_loss"]]
    assert [step for step, _ in table] == list(range(40))
    assert [(event.step, event.value) for event in read.Scalars("train_loss")] == [
        (step, pytest.approx(value, rel=1e-6, nan_ok=True)) for step, value in table
    ]


class GoBackAtOnce(Callback):
    """Puts back the state that was saved at this very step: nothing may change."""

    at_end_of_boundary = True

    def __init__(self) -> None:
        self.times = 0

    def on_step_boundary(self, trainer: Trainer, pl_module: LightningModule) -> None:
        for saver in (one for one in trainer.callbacks if isinstance(one, Checkpoint)):  # type: ignore[attr-defined]
            saver.settle(trainer)
        path = Path(trainer.default_root_dir) / f"checkpoints/step-{trainer.global_step:08d}"
        if path.exists():
            go_back(trainer, trainer.strategy.load_checkpoint(path))
            self.times += 1


EVERYTHING = [
    "data.class_path=tiny.Data",
    "trainer.max_steps=20",
    "finite.policy=skip",
    "accumulate={batches: 2}",
    "clip={norm: 1.0}",
    "unfreeze={stages: [{match: 'layer.bias', step: 3}]}",
    "spikes={window: 4, factor: 1.0}",
    "early_stopping={patience: 100}",
]


@pytest.mark.parametrize("more", [[], ["precision={dtype: fp16, opt_level: O2, loss_scale: dynamic}"]])
def test_going_back_to_where_one_is_changes_nothing(write: Write, more: list[str]) -> None:
    """All that keeps state is put back whole, features included: the end has the same bits, and the same rows."""
    recipe = write(RECIPE)
    still = assemble(recipe, [*EVERYTHING, *more, "trainer.default_root_dir=still"])
    still.fit()
    moved = assemble(recipe, [*EVERYTHING, *more, "trainer.default_root_dir=moved"])
    again = GoBackAtOnce()
    moved.trainer.callbacks.append(again)  # type: ignore[attr-defined]
    moved.fit()
    assert again.times == 5
    last = "checkpoints/step-00000020"
    assert files(Path("moved") / last) == files(Path("still") / last)
    assert rows(Path("moved")) == rows(Path("still"))


def test_without_checkpoints_a_recipe_is_refused_in_one_line(write: Write, command: Callable[..., Any]) -> None:
    code, _, errors = command("fit", write(RECIPE), "--no-checkpoint")
    assert code == 2
    assert "finite needs checkpoints, which nothing in this run provides; add a section that does" in errors
