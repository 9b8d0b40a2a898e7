"""A run that is stopped and resumed equals the run that was not, bit for bit: in a recipe and in a stock Trainer."""

from __future__ import annotations

import csv
import logging
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import tiny
import torch
from lightning import Callback, LightningModule, Trainer, seed_everything
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.plugins.environments import LightningEnvironment

from trustformers_pl import assemble
from trustformers_pl.checkpoint import Checkpoint, load, resume_path
from trustformers_pl.checkpoint.folder import steps
from trustformers_pl.data import resumable_datamodule
from trustformers_pl.errors import CheckpointError, RefusedError

Write = Callable[..., str]
RECIPE = """\
model: {class_path: tiny.Composable, init_args: {dropout: 0.3}}
data: {class_path: tiny.Data, init_args: {count: 30}}
trainer: {max_steps: 40, accelerator: cpu, log_every_n_steps: 1, val_check_interval: 3, check_val_every_n_epoch: null}
optimizer: {name: adamw, lr: 0.05}
schedule: {name: cosine, warmup_steps: 5}
checkpoint: {every_n_steps: 1, keep_last: 100}
csv: {}
metrics: {tokens_per_second: false}
"""


def rows() -> list[dict[str, str]]:
    with Path("runs/recipe/metrics.csv").open(newline="") as file:
        return list(csv.DictReader(file))


def tree(path: Path) -> dict[str, bytes]:
    return {file.name: file.read_bytes() for file in sorted(path.iterdir())}


MOST = (1, 3, 7, 8, 9, 15, 16, 24, 38, 39)
SOME = (3, 8, 15, 39)


@pytest.mark.parametrize(
    ("data", "cuts"),
    [
        ("{class_path: tiny.Data, init_args: {count: 30}}", MOST),
        ("{class_path: tiny_streams.Streamed}", MOST),
        ("{class_path: tiny_streams.Streamed, init_args: {num_workers: 2}}", SOME),
        ("{class_path: tiny_streams.Weighted, init_args: {count: 40}}", SOME),
    ],
)
def test_from_every_step_of_a_run(data: str, cuts: tuple[int, ...], write: Write) -> None:
    """30 samples in batches of 4 are 8 steps an epoch: the cuts fall mid-epoch, on last batches and on validations."""
    recipe = write(RECIPE.replace("{class_path: tiny.Data, init_args: {count: 30}}", data))
    assemble(recipe).fit()
    folder = Path("runs/recipe/checkpoints")
    expected, logged = tree(folder / "step-00000040"), rows()
    assert len(logged) == 40
    assert len(steps(folder)) == 40
    shutil.copytree("runs", "whole")
    for cut in cuts:
        shutil.rmtree("runs")
        shutil.copytree("whole", "runs")
        for step, path in steps(folder).items():
            if step > cut:
                shutil.rmtree(path)
        assemble(recipe).fit()
        assert tree(folder / "step-00000040") == expected, f"resumed at {cut}"
        assert rows() == logged, f"resumed at {cut}"


def test_a_finished_run_stays_as_it_is(write: Write) -> None:
    recipe = write(RECIPE)
    assemble(recipe).fit()
    before, logged = tree(Path("runs/recipe/checkpoints/step-00000040")), rows()
    again = assemble(recipe)
    again.fit()
    assert again.trainer.global_step == 40
    assert tree(Path("runs/recipe/checkpoints/step-00000040")) == before
    assert rows() == logged


@pytest.mark.parametrize("cut", [5, 8, 13])
def test_by_epochs_with_an_epoch_schedule_and_user_hooks(cut: int) -> None:
    """A stock Trainer with nothing of ours but `Checkpoint` and resumable data; the module and its hooks are stock."""
    whole, _ = stock_run("whole")
    stock_run("cut")
    for step, path in steps("cut").items():
        if step > cut:
            shutil.rmtree(path)
    resumed, hooks = stock_run("cut", resume=True)
    assert all(torch.equal(value, resumed.state_dict()[name]) for name, value in whole.state_dict().items())
    assert tree(Path("cut/step-00000016")) == tree(Path("whole/step-00000016"))
    assert hooks.steps == list(range(cut + 1, 17))


class Stock(tiny.Composable):
    def configure_optimizers(self) -> Any:
        optimizer = torch.optim.SGD(self.parameters(), lr=0.1, momentum=0.9)
        schedule = torch.optim.lr_scheduler.StepLR(optimizer, step_size=1, gamma=0.5)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "epoch"}}

    def on_train_epoch_end(self) -> None:
        torch.rand(3)  # what a user's hook draws belongs to the run too


class Steps(Callback):
    def __init__(self) -> None:
        self.steps: list[int] = []

    def on_train_batch_end(self, trainer: Trainer, pl_module: LightningModule, *rest: Any) -> None:
        self.steps.append(trainer.global_step)


def stock_run(folder: str, *, resume: bool = False) -> tuple[Stock, Steps]:
    seed_everything(1, verbose=False)
    module, hooks = Stock(dropout=0.3), Steps()
    data = resumable_datamodule(tiny.Data(count=30), seed=1)
    checkpoint = Checkpoint(folder=folder, every_n_steps=1, keep_last=100)
    trainer = Trainer(
        max_epochs=2,
        accelerator="cpu",
        logger=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        callbacks=[hooks, checkpoint],
        plugins=[LightningEnvironment()],
        check_val_every_n_epoch=1,
    )
    trainer.fit(module, datamodule=data, ckpt_path=resume_path(folder) if resume else None)
    return module, hooks


def test_only_the_last_ones_stay_and_the_last_step_is_saved(write: Write) -> None:
    recipe = write(RECIPE)
    assemble(recipe, ["checkpoint.every_n_steps=15", "checkpoint.keep_last=2"]).fit()
    assert list(steps("runs/recipe/checkpoints")) == [30, 40]
    state = load("runs/recipe/checkpoints/step-00000040")
    assert state["global_step"] == 40


def test_a_damaged_checkpoint_is_named_and_passed_over(write: Write, caplog: pytest.LogCaptureFixture) -> None:
    recipe = write(RECIPE)
    assemble(recipe, ["checkpoint.every_n_steps=10"]).fit()
    expected = tree(Path("runs/recipe/checkpoints/step-00000040"))
    newest = Path("runs/recipe/checkpoints/step-00000040/tensors.safetensors")
    newest.write_bytes(newest.read_bytes()[:-1])
    with caplog.at_level(logging.WARNING):
        assemble(recipe, ["checkpoint.every_n_steps=10"]).fit()
    assert (
        "passed over a damaged checkpoint: runs/recipe/checkpoints/step-00000040/tensors.safetensors: expected"
        in caplog.text
    )
    assert tree(newest.parent) == expected


def test_only_damaged_checkpoints_are_refused_and_kept(write: Write) -> None:
    recipe = write(RECIPE)
    assemble(recipe, ["checkpoint.keep_last=1"]).fit()
    (Path("runs/recipe/checkpoints/step-00000040") / "manifest.json").unlink()
    with pytest.raises(
        CheckpointError, match=r"runs/recipe/checkpoints: no whole checkpoint \(.*manifest.*\); restore one"
    ) as caught:
        assemble(recipe, ["checkpoint.keep_last=1"]).fit()
    assert "\n" not in str(caught.value)
    assert Path("runs/recipe/checkpoints/step-00000040/tensors.safetensors").exists()


def test_state_that_cannot_be_stored_is_found_before_the_first_step(write: Write) -> None:
    class Remembers(Callback):
        def state_dict(self) -> dict[str, Any]:
            return {"function": print}

    run = assemble(write(RECIPE))
    run.trainer.callbacks.append(Remembers())  # type: ignore[attr-defined]
    with pytest.raises(CheckpointError, match=r"callbacks\..*Remembers.*function"):
        run.fit()
    assert run.trainer.global_step == 0


def test_two_keepers_of_checkpoints_are_refused() -> None:
    trainer = Trainer(
        max_steps=1,
        accelerator="cpu",
        logger=False,
        plugins=[LightningEnvironment()],
        callbacks=[Checkpoint(), ModelCheckpoint()],
    )
    with pytest.raises(RefusedError, match="Checkpoint and ModelCheckpoint both save this run; remove one"):
        trainer.fit(Stock(), datamodule=tiny.Data())


def test_a_loader_that_cannot_be_resumed_is_named(write: Write, caplog: pytest.LogCaptureFixture) -> None:
    class Unordered(tiny.Data):
        def train_dataloader(self) -> Any:
            return torch.utils.data.DataLoader(tiny.samples(30), 4, in_order=False)

    tiny.Unordered = Unordered  # type: ignore[attr-defined]
    with caplog.at_level(logging.WARNING):
        assemble(write(RECIPE.replace("tiny.Data, init_args: {count: 30}", "tiny.Unordered"))).fit()
    assert "a resumed run will not go on at the same sample: in_order=False lets the order" in caplog.text
