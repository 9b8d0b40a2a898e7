"""Spikes of the gradient: found as SciPy's median absolute deviation says, and kept from the weights."""

from __future__ import annotations

import logging
import random
from typing import Any

import pytest
import scipy.stats
import tiny
import torch
from lightning import Callback, Trainer
from torch.utils.data import DataLoader, TensorDataset

from trustformers_pl.checkpoint import Checkpoint
from trustformers_pl.data import resumable_datamodule
from trustformers_pl.errors import NonFiniteError, RefusedError
from trustformers_pl.faults import Spikes
from trustformers_pl.faults.robust_level import limit
from trustformers_pl.precision_order import OrderedPrecision


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
    assert "optimizer step 7: a spike: the gradient's norm is" in caplog.text
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
