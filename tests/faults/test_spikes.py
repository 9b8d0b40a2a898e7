"""Spikes of loss and gradient: found as SciPy's median absolute deviation says, and kept from the weights."""

from __future__ import annotations

import json
import logging
import random
from pathlib import Path
from typing import Any

import pytest
import scipy.stats
import tiny
import torch
from lightning import Callback, Trainer
from ranks import on_ranks
from torch.utils.data import DataLoader, TensorDataset

from trustformers_pl.checkpoint import Checkpoint
from trustformers_pl.data import resumable_datamodule
from trustformers_pl.errors import NonFiniteError, RefusedError
from trustformers_pl.faults import Spikes
from trustformers_pl.faults.levels import Levels
from trustformers_pl.faults.robust_level import limit
from trustformers_pl.precision_order import OrderedPrecision
from trustformers_pl.stateful import State


@pytest.mark.parametrize("count", [2, 7, 50])
def test_the_limit_is_that_of_scipys_median_absolute_deviation(count: int) -> None:
    draw = random.Random(count)
    values = [draw.lognormvariate(0, 1) for _ in range(count)]
    deviation = float(scipy.stats.median_abs_deviation(values, scale="normal"))
    expected = float(torch.tensor(values, dtype=torch.float64).quantile(0.5)) + 5 * deviation
    assert limit(values, 5.0) == pytest.approx(expected, rel=1e-4)  # SciPy has more digits of 1.4826


def test_a_series_that_stands_still_has_a_spread_all_the_same() -> None:
    assert limit([2.0] * 10, 5.0) == pytest.approx(2.1)


class Wild(tiny.Data):
    """Batches whose target is far away, where the samples 4·b to 4·b + 3 are the batch b."""

    def __init__(self, *bad: int, count: int = 80) -> None:
        super().__init__(count=count, shuffle=False)
        self.bad = bad

    def train_dataloader(self) -> DataLoader[Any]:
        x, y = tiny.samples(self.count).tensors
        y = y.clone()
        for batch in self.bad:
            y[4 * batch : 4 * batch + 4] = 1e4
        return DataLoader(TensorDataset(x, y), self.batch_size)


class Model(tiny.Composable):
    def __init__(self) -> None:
        torch.manual_seed(0)
        super().__init__()

    def configure_optimizers(self) -> Any:
        return torch.optim.SGD(self.parameters(), lr=0.02)


def stock(spikes: Spikes, *bad: int, saver: Callback | None = None) -> Any:
    trainer = Trainer(
        max_steps=16,
        accelerator="cpu",
        logger=False,
        limit_val_batches=0,
        enable_progress_bar=False,
        enable_model_summary=False,
        enable_checkpointing=saver is not None,
        callbacks=[spikes, *([saver] if saver else [])],
        plugins=[OrderedPrecision()],
    )
    trainer.fit(Model(), resumable_datamodule(Wild(*bad), seed=0))
    return trainer.lightning_module.layer


def plain(batches: list[int]) -> Any:
    """A plain PyTorch loop over these batches."""
    module = Model()
    x, y = tiny.samples(80).tensors
    optimizer = torch.optim.SGD(module.parameters(), lr=0.02)
    for batch in batches:
        part = slice(4 * batch, 4 * batch + 4)
        optimizer.zero_grad()
        ((module.layer(x[part]) - y[part]) ** 2).mean().backward()
        optimizer.step()
    return module.layer


def test_a_spike_is_left_out(caplog: pytest.LogCaptureFixture) -> None:
    spikes = Spikes(factor=20.0, window=8)
    with caplog.at_level(logging.WARNING, "trustformers_pl.faults"):
        layer = stock(spikes, 6, 11)
    assert spikes.found == 2
    assert "optimizer step 7: a spike: the loss is" in caplog.text
    expected = plain([batch for batch in range(16) if batch not in (6, 11)])
    torch.testing.assert_close(layer.weight, expected.weight, rtol=1e-6, atol=1e-7)


def test_the_run_goes_back_before_a_spike_and_on_behind_it() -> None:
    spikes = Spikes(factor=20.0, window=8, policy="roll_back", skip_batches=1)
    layer = stock(spikes, 6, saver=Checkpoint(folder="checkpoints", every_n_steps=5))
    assert (spikes.found, spikes.rollbacks.done) == (1, 1)
    # Batch 6 is found at step 7, the checkpoint is of step 5; batch 7 is left out, and counts as step 6.
    expected = plain([0, 1, 2, 3, 4, *range(8, 18)])
    torch.testing.assert_close(layer.weight, expected.weight, rtol=1e-6, atol=1e-7)
    with pytest.raises(RefusedError, match="Spikes goes back to checkpoints, and nobody saves any"):
        stock(Spikes(policy="roll_back"))


def test_a_run_that_shall_stop_stops_with_its_weights_untouched() -> None:
    with pytest.raises(NonFiniteError, match=r"optimizer step 7: a spike: .* above .*; the weights are untouched"):
        stock(Spikes(factor=20.0, window=8, policy="stop"), 6)


def test_many_in_a_row_are_the_new_level() -> None:
    spikes = Spikes(factor=20.0, window=8, max_consecutive=3)
    layer = stock(spikes, *range(6, 16))
    assert spikes.found == 2
    expected = plain(list(range(6)))
    assert float((layer.weight - expected.weight).abs().max()) > 1  # it trains on


def test_a_new_level_is_accepted_by_a_run_that_goes_back_too() -> None:
    spikes = Spikes(factor=20.0, window=8, policy="roll_back", max_consecutive=3)
    stock(spikes, *range(6, 20), saver=Checkpoint(folder="checkpoints", every_n_steps=5))
    assert (spikes.found, spikes.rollbacks.done) == (2, 2)


class Outlier(Callback):
    """Raises the loss of some batches without changing their gradient, as a badly labelled class does."""

    def __init__(self, *bad: int, by: float = 1e3) -> None:
        self.bad, self.by = bad, by

    def on_train_batch_start(self, trainer: Trainer, pl_module: Any, batch: Any, batch_idx: int) -> None:
        pl_module.offset = self.by if batch_idx in self.bad else 0.0


class Offset(Model):
    """Its loss has an additive constant, which no gradient knows of."""

    offset = 0.0

    def loss(self, outputs: torch.Tensor, batch: list[torch.Tensor]) -> tuple[torch.Tensor, torch.Tensor]:
        total, count = super().loss(outputs, batch)
        return total + self.offset * count, count


def test_a_loss_that_jumps_while_the_gradient_does_not(caplog: pytest.LogCaptureFixture) -> None:
    """Against a plain loop that leaves those batches out; the norm alone sees nothing."""
    for of, found, batches in (
        (("loss",), 2, [batch for batch in range(16) if batch not in (6, 11)]),
        (("grad_norm",), 0, list(range(16))),
    ):
        spikes = Spikes(factor=20.0, window=8, of=of)
        trainer = trained(spikes, Outlier(6, 11), module=Offset())
        assert spikes.found == found
        expected = plain(batches)
        torch.testing.assert_close(trainer.lightning_module.layer.weight, expected.weight, rtol=1e-6, atol=1e-7)
    assert "optimizer step 7: a spike: the loss is 1e+03, above" in caplog.text


def trained(*callbacks: Callback, module: Any = None, **more: Any) -> Any:
    trainer = Trainer(
        max_steps=16,
        accelerator="cpu",
        logger=False,
        limit_val_batches=0,
        enable_progress_bar=False,
        enable_model_summary=False,
        enable_checkpointing=False,
        callbacks=list(callbacks),
        **{"plugins": [OrderedPrecision()], **more},
    )
    trainer.fit(module or Model(), resumable_datamodule(Wild(), seed=0))
    return trainer


@pytest.mark.parametrize("precision", ["32-true", "bf16-mixed", "16-mixed"])
@pytest.mark.parametrize("accumulated", [1, 3])
def test_the_loss_is_the_mean_over_the_steps_samples(precision: str, accumulated: int) -> None:
    """By the sums and counts that the training step gives out, one micro-batch at a time."""
    spikes = Spikes(of=("loss",))
    seen: list[float] = []
    take = spikes.levels.take
    spikes.levels.take = lambda values: (seen.append(values["loss"]), take(values))[1]  # type: ignore[method-assign]
    sums: list[tuple[float, int]] = []

    class Note(Callback):
        def on_train_batch_end(
            self, trainer: Trainer, pl_module: Any, outputs: Any, batch: Any, batch_idx: int
        ) -> None:
            sums.append((float(outputs["loss_sum"]), len(batch[0])))

    # A scale that fp16 can bear: steps that overflow are not looked at.
    scaler = torch.amp.GradScaler("cpu", init_scale=8.0) if precision == "16-mixed" else None
    plugins = [OrderedPrecision(precision, scaler=scaler)]
    trained(spikes, Note(), accumulate_grad_batches=accumulated, plugins=plugins)
    # Of an epoch's 20 batches the last step has but two, if it is of three.
    expected = []
    for epoch in (sums[i : i + 20] for i in range(0, len(sums), 20)):
        for i in range(0, len(epoch), accumulated):
            window = epoch[i : i + accumulated]
            expected.append(sum(total for total, _ in window) / sum(count for _, count in window))
    assert seen == pytest.approx(expected, rel=1e-2 if precision == "bf16-mixed" else 1e-5)
    assert len(seen) == 16


def test_windows_resume_exactly_and_those_of_an_older_version_too() -> None:
    levels = Levels(("loss", "grad_norm"), factor=5.0, window=4, max_consecutive=3)
    draw = random.Random(0)
    rows = [{"loss": draw.gauss(2, 0.1), "grad_norm": draw.gauss(1, 0.1)} for _ in range(20)]
    rows[9]["loss"] = rows[10]["loss"] = rows[15]["grad_norm"] = 100.0
    whole = [levels.take(row) for row in rows]
    assert [number for number, said in enumerate(whole) if said] == [9, 10, 15]
    for cut in range(20):
        before = Levels(("loss", "grad_norm"), factor=5.0, window=4, max_consecutive=3)
        first = [before.take(row) for row in rows[:cut]]
        after = Levels(("loss", "grad_norm"), factor=5.0, window=4, max_consecutive=3)
        after.load_state(json.loads(json.dumps(before.state())))
        assert first + [after.take(row) for row in rows[cut:]] == whole
    spikes = Spikes()
    spikes.load_state(State({"done": 1, "left": 0, "found": 2, "norms": [1.0, 2.0], "in_a_row": []}, version=1))
    assert spikes.levels.state()["known"] == {"loss": [], "grad_norm": [1.0, 2.0]}


def test_a_loss_that_is_not_finite_is_a_spike_and_no_part_of_the_window() -> None:
    levels = Levels(("loss",), factor=5.0, window=4, max_consecutive=2)
    assert levels.take({"loss": float("nan")}) is not None
    assert [levels.take({"loss": value}) for value in (1.0, 1.1, 0.9, 1.0)] == [None] * 4
    assert levels.take({"loss": float("nan")}) is not None
    assert levels.take({"loss": float("nan")}) is None  # a new level, of which no number is known
    assert levels.state()["known"] == {"loss": []}


def test_levels_may_be_negative() -> None:
    """A loss can be: the limit still lies above the median."""
    assert limit([-2.0] * 10, 5.0) == pytest.approx(-1.9)


def test_ranks_decide_alike_when_one_of_them_has_the_bad_batch() -> None:
    """The mean over both ranks shows what one of them has, and both leave the step out."""
    job = f"""
        import sys
        sys.path[:0] = [{str(Path(tiny.__file__).parent)!r}, {str(Path(__file__).parent)!r}]
        from trustformers_pl import assemble

        made = assemble({{
            "model": {{"class_path": "test_spikes.Offset"}},
            "data": {{"class_path": "tiny.Data", "init_args": {{"count": 200, "shuffle": False}}}},
            "trainer": {{"max_steps": 16, "accelerator": "cpu", "devices": 2, "limit_val_batches": 0}},
            "optimizer": {{"name": "sgd", "lr": 0.02}}, "ddp": {{}},
            "spikes": {{"of": ["loss"], "factor": 20.0, "window": 8}}}})
        from test_spikes import Outlier
        if made.trainer.global_rank == 1:
            made.trainer.callbacks.append(Outlier(6, 11))
        made.fit()
        (spikes,) = made.callbacks("Spikes")
        print(spikes.found, spikes.levels.state()["known"]["loss"])
    """
    one, other = on_ranks(2, job)
    assert one == other
    assert one.startswith("2 [")
