from __future__ import annotations

import csv
import math
import time
from typing import TYPE_CHECKING, Any

import pytest
import torch
from lightning.pytorch import Callback, LightningModule
from tiny_text import TinyLM, TinyText
from torch import Tensor
from torch.nn.functional import cross_entropy
from torch.utils._python_dispatch import TorchDispatchMode

from trustformers_pl.steps import LossTerm
from trustformers_pl.tracking import CSVLogger, Metrics
from trustformers_pl.tracking.perplexity import bits_per_byte, perplexity
from trustformers_pl.tracking.throughput import FOLD, Throughput

if TYPE_CHECKING:
    from pathlib import Path


def column(path: Path, name: str) -> dict[int, float]:
    with path.open(newline="") as file:
        return {int(row["step"]): float(row[name]) for row in csv.DictReader(file) if row.get(name)}


def sum_and_count(table: Tensor, rows: Tensor) -> tuple[Tensor, int]:
    """Summed cross-entropy and number of the targets that are not padding."""
    kept = rows[:, 1:] != 0
    return cross_entropy(table[rows[:, :-1][kept]], rows[:, 1:][kept], reduction="sum"), int(kept.sum())


def plain_run(batches: list[Tensor], accumulate: int, lr: float) -> list[dict[str, float]]:
    """Plain gradient descent in float64 on the same weights and batches, written without Lightning."""
    table = TinyLM().table.weight.detach().double().requires_grad_()
    steps = []
    for first in range(0, len(batches), accumulate):
        window = [sum_and_count(table, rows) for rows in batches[first : first + accumulate]]
        objective = sum(loss_sum / count for loss_sum, count in window) / accumulate
        (grad,) = torch.autograd.grad(objective, table)
        now = lr / (1 + len(steps))
        steps.append(
            {
                "train_loss": float(sum(loss_sum for loss_sum, _ in window)) / sum(count for _, count in window),
                "grad_norm": float(grad.square().sum().sqrt()),
                "lr": now,
            }
        )
        table = (table - now * grad).detach().requires_grad_()
    return steps


@pytest.mark.parametrize("accumulate", [1, 2])
@pytest.mark.parametrize("every", [1, 5])
def test_training_metrics_are_those_of_a_plain_float64_loop(
    make_trainer: Any, tmp_path: Path, accumulate: int, every: int
) -> None:
    data = TinyText(batches=20)
    trainer = make_trainer(
        logger=CSVLogger(tmp_path),
        callbacks=[Metrics()],
        log_every_n_steps=every,
        accumulate_grad_batches=accumulate,
        max_steps=20 // accumulate,
        gradient_clip_val=1e9,
    )
    trainer.fit(TinyLM(lr=2.0), datamodule=data)
    expected = plain_run(list(data.train_rows.split(4)), accumulate, lr=2.0)
    due = range(every - 1, 20 // accumulate, every)
    for name in ("train_loss", "grad_norm", "lr"):
        found = column(tmp_path / "metrics.csv", name)
        assert found == pytest.approx({step: expected[step][name] for step in due}, rel=1e-5)
        assert float(trainer.callback_metrics[name]) == found[due[-1]]


def test_gradient_norm_is_taken_before_clipping(make_trainer: Any, tmp_path: Path) -> None:
    data = TinyText(batches=3)
    trainer = make_trainer(
        logger=CSVLogger(tmp_path), callbacks=[Metrics()], log_every_n_steps=1, max_steps=1, gradient_clip_val=1e-3
    )
    trainer.fit(TinyLM(), datamodule=data)
    expected = plain_run([data.train_rows[:4]], 1, lr=0.1)[0]["grad_norm"]
    assert expected > 1e-3
    assert column(tmp_path / "metrics.csv", "grad_norm") == pytest.approx({0: expected}, rel=1e-5)


class StepsOfOps(TorchDispatchMode):
    """Notes at which `global_step` a number is read from a tensor, or a norm is taken."""

    def __init__(self, trainer: Any) -> None:
        super().__init__()
        self.trainer = trainer
        self.read: set[int] = set()
        self.norm: set[int] = set()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if "_local_scalar_dense" in str(func):
            self.read.add(self.trainer.global_step)
        if "_norm" in str(func):
            self.norm.add(self.trainer.global_step)
        return func(*args, **(kwargs or {}))


def test_steps_that_are_not_due_read_nothing_and_take_no_norm(make_trainer: Any, tmp_path: Path) -> None:
    trainer = make_trainer(
        logger=CSVLogger(tmp_path), callbacks=[Metrics()], log_every_n_steps=10, limit_val_batches=0, max_steps=25
    )
    with StepsOfOps(trainer) as ops:
        trainer.fit(TinyLM(), datamodule=TinyText(batches=25))
    # A norm is taken before the step is counted, a number is read before or after. At 0 the DataLoader reads its seed.
    assert ops.norm == {9, 19}
    assert ops.read == {0, 9, 10, 19, 20}


class AlsoLogs(TinyLM):
    def training_step(self, batch: Tensor, batch_idx: int) -> Any:
        outputs = super().training_step(batch, batch_idx)
        self.log("own", outputs["loss"])
        return outputs


@pytest.mark.parametrize(("every", "accumulate"), [(1, 1), (3, 1), (4, 2), (7, 3)])
def test_due_steps_are_those_on_which_lightning_logs(
    make_trainer: Any, tmp_path: Path, every: int, accumulate: int
) -> None:
    trainer = make_trainer(
        logger=CSVLogger(tmp_path),
        callbacks=[Metrics()],
        log_every_n_steps=every,
        accumulate_grad_batches=accumulate,
        max_steps=20,
    )
    # Eleven batches: windows that end with the epoch are shorter than the others.
    trainer.fit(AlsoLogs(), datamodule=TinyText(batches=11))
    path = tmp_path / "metrics.csv"
    # Where Lightning wrote what was logged with its own `self.log` is the measure.
    assert column(path, "own")
    assert list(column(path, "train_loss")) == list(column(path, "own"))


class OnlyATrainingStep(LightningModule):
    """A stock module that knows nothing of counts."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = torch.nn.Parameter(torch.tensor(3.0))

    def training_step(self, batch: Tensor, batch_idx: int) -> Tensor:
        return self.weight.square()

    def configure_optimizers(self) -> Any:
        return torch.optim.SGD(self.parameters(), lr=0.25)


def test_a_stock_module_gets_its_loss_logged(make_trainer: Any, tmp_path: Path) -> None:
    trainer = make_trainer(logger=CSVLogger(tmp_path), callbacks=[Metrics()], log_every_n_steps=1, max_steps=3)
    trainer.fit(OnlyATrainingStep(), train_dataloaders=TinyText().train_dataloader())
    # By hand: w <- w - 0.25 * 2 w halves the weight, 3 -> 1.5 -> 0.75; the loss is its square, the gradient 2 w.
    path = tmp_path / "metrics.csv"
    assert column(path, "train_loss") == {0: 9.0, 1: 2.25, 2: 0.5625}
    assert column(path, "grad_norm") == {0: 6.0, 1: 3.0, 2: 1.5}
    assert column(path, "tokens_per_second") == {}


def test_loss_terms_are_logged_by_name(make_trainer: Any, tmp_path: Path) -> None:
    module = TinyLM()
    module.loss_terms = (LossTerm("seven", lambda *_: (torch.tensor(14.0), torch.tensor(2)), weight=0.5),)
    data = TinyText(batches=3)
    trainer = make_trainer(logger=CSVLogger(tmp_path), callbacks=[Metrics()], log_every_n_steps=1, max_steps=1)
    trainer.fit(module, datamodule=data)
    assert column(tmp_path / "metrics.csv", "seven") == {0: 7.0}
    # The term is not part of `train_loss`, which stays comparable with `val_loss`.
    expected = plain_run([data.train_rows[:4]], 1, lr=0.1)[0]["train_loss"]
    assert column(tmp_path / "metrics.csv", "train_loss") == pytest.approx({0: expected}, rel=1e-6)


def test_validation_metrics_of_fit_and_of_validate(make_trainer: Any, tmp_path: Path) -> None:
    data = TinyText(batches=5)
    trainer = make_trainer(logger=CSVLogger(tmp_path), callbacks=[Metrics()], max_steps=5, log_every_n_steps=5)
    module = TinyLM()
    trainer.fit(module, datamodule=data)
    (validated,) = trainer.validate(module, datamodule=data, verbose=False)
    # Independent: float64, all rows in one batch, mean over the targets that are not padding.
    loss_sum, count = sum_and_count(module.table.weight.detach().double(), data.val_rows)
    nats = float(loss_sum) / count
    expected = {
        "val_loss": nats,
        "val_perplexity": 2.0 ** (nats * math.log2(math.e)),
        "val_bits_per_byte": nats * math.log2(math.e) / 2.0,
    }
    assert validated == pytest.approx(expected, rel=1e-5)
    for name, value in expected.items():
        assert column(tmp_path / "metrics.csv", name)[4] == pytest.approx(value, rel=1e-5)


def test_nothing_is_said_about_text_when_the_data_is_not_declared_to_be_text(make_trainer: Any) -> None:
    data = TinyText(batches=2)
    data.bytes_per_token = None
    (validated,) = make_trainer(callbacks=[Metrics()]).validate(TinyLM(), datamodule=data, verbose=False)
    assert list(validated) == ["val_loss"]


def test_perplexity_and_bits_per_byte_of_known_distributions() -> None:
    # A uniform choice among 256 bytes: 8 bits, perplexity 256, by definition.
    assert perplexity(math.log(256)) == pytest.approx(256.0)
    assert bits_per_byte(math.log(256), bytes_per_token=1.0) == pytest.approx(8.0)
    assert bits_per_byte(math.log(256), bytes_per_token=4.0) == pytest.approx(2.0)
    assert perplexity(1e6) == math.inf


class SaveInsideTheWindow(Callback):
    def __init__(self, path: Path) -> None:
        self.path = path

    def on_train_batch_end(self, trainer: Any, pl_module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        if batch_idx == 2:
            trainer.save_checkpoint(self.path)


def test_a_checkpoint_inside_an_accumulation_window_keeps_its_losses(make_trainer: Any, tmp_path: Path) -> None:
    data = TinyText(batches=4)
    callbacks = [Metrics(), SaveInsideTheWindow(tmp_path / "inside.ckpt")]
    trainer = make_trainer(callbacks=callbacks, accumulate_grad_batches=2, log_every_n_steps=1, max_steps=2)
    trainer.fit(TinyLM(lr=0.0), datamodule=data)
    state = torch.load(tmp_path / "inside.ckpt", weights_only=True)["callbacks"]["Metrics"]
    (first_half,) = state["window"]
    # The third batch opens the second window; at learning rate zero its loss is that of the initial weights.
    loss_sum, count = sum_and_count(TinyLM().table.weight.detach().double(), data.train_rows[8:12])
    assert first_half["count"] == count
    assert first_half["loss_sum"] == pytest.approx(float(loss_sum), rel=1e-6)
    resumed = Metrics()
    resumed.load_state_dict(state)
    assert resumed.state_dict() == state


def test_throughput_counts_all_steps_and_leaves_pauses_out() -> None:
    speed = Throughput()
    speed.start()
    assert speed.read() is None
    for _ in range(FOLD + 10):
        speed.add(torch.tensor(2))
    time.sleep(0.05)
    speed.pause()
    time.sleep(2.0)
    speed.go_on()
    found = speed.read()
    # 2,068 elements in at least 0.05 s; had the pause counted, there were less than 1,034 a second.
    assert 1034 < found <= 2068 / 0.05
    assert speed.read() is None
