"""Means, sums and metrics of an epoch are those of the whole epoch, also when the run was resumed inside it."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning import Trainer
from lightning.pytorch.trainer.connectors.logger_connector.result import (
    _Metadata,
    _ResultCollection,
    _ResultMetric,
    _Sync,
)
from tiny_state import Logging, cut, train, tree
from torch import nn
from torchmetrics import MeanMetric, MeanSquaredError, Metric, MetricCollection

from trustformers_pl.checkpoint.folder import load, write_state
from trustformers_pl.logged_results import CONNECTOR, METADATA, REDUCTIONS, VALUES, LoggedResults
from trustformers_pl.metric_states import COUNTERS, load_metric_states, metric_states
from trustformers_pl.stateful import State


def rows(trainer: Trainer) -> list[tuple[int, dict[str, float]]]:
    return trainer.logger.rows  # type: ignore[union-attr,attr-defined]


@pytest.mark.parametrize("accumulate", [1, 2])
def test_what_is_logged_after_a_resume_is_what_would_have_been(accumulate: int) -> None:
    """7 batches an epoch: with 2 to a step, the last step of an epoch has one batch. The uninterrupted run decides."""
    arguments = {"accumulate_grad_batches": accumulate, "val_check_interval": 3}
    whole = train("whole", **arguments)
    last = whole.global_step
    assert last == (14 if accumulate == 1 else 8)
    for step in (1, 3, last // 2, last // 2 + 1, last - 1):
        cut("whole", f"cut{step}", step)
        resumed = train(f"cut{step}", resume=True, **arguments)
        assert rows(resumed) == rows(whole)[-len(rows(resumed)) :], f"resumed at {step}"
        assert tree(f"cut{step}/step-{last:08d}") == tree(f"whole/step-{last:08d}"), f"resumed at {step}"
        assert {name: float(value) for name, value in resumed.callback_metrics.items()} == {
            name: float(value) for name, value in whole.callback_metrics.items()
        }


def test_the_epoch_means_are_those_of_the_steps() -> None:
    """The expected values are Python's mean, maximum and sum of the 7 losses that were logged step by step."""
    train("whole", max_epochs=1)
    cut("whole", "cut", 4)
    resumed = train("cut", resume=True, max_epochs=1)
    before = train("before", max_epochs=1)
    losses = [row["loss_step"] for _, row in rows(before) if "loss_step" in row]
    epoch = next(row for _, row in rows(resumed) if "loss_epoch" in row)
    assert len(losses) == 7
    assert len([row for _, row in rows(resumed) if "loss_step" in row]) == 3
    assert epoch["loss_epoch"] == pytest.approx(sum(losses) / 7)
    assert epoch["running_epoch"] == pytest.approx(sum(losses) / 7)
    assert epoch["worst"] == max(losses)
    assert epoch["total"] == pytest.approx(sum(losses))
    assert epoch["first"] == losses[0]
    assert epoch["rmse_of_epoch"] == pytest.approx(epoch["mse_of_epoch"] ** 0.5)


class Errors(nn.Module):
    """Metrics of one compute group, whose states torchmetrics adds to in place, and one with a list of tensors."""

    def __init__(self) -> None:
        super().__init__()
        self.metrics = MetricCollection({"mse": MeanSquaredError(), "rmse": MeanSquaredError(squared=False)})
        self.kept = ListMetric()


class ListMetric(Metric):
    def __init__(self) -> None:
        super().__init__()
        self.add_state("values", [], dist_reduce_fx="cat")

    def update(self, value: torch.Tensor) -> None:
        self.values.append(value)

    def compute(self) -> torch.Tensor:
        return torch.cat(list(self.values)).median()


def test_compute_groups_and_list_states() -> None:
    """In a compute group only the first member is updated; what is stored must be right for all, and counted once."""
    batches = torch.rand(5, 2, 20, generator=torch.Generator().manual_seed(0))
    before, after = Errors(), Errors()
    for predicted, target in batches[:3]:
        before.metrics.update(predicted, target)
        before.kept.update(predicted)
    write_state("errors", metric_states(before))
    load_metric_states(after, load("errors"))
    for predicted, target in batches[3:]:
        after.metrics.update(predicted, target)
        after.kept.update(predicted)
    squares = (batches[:, 0] - batches[:, 1]).square()
    assert float(after.metrics.compute()["mse"]) == pytest.approx(float(squares.mean()))
    assert float(after.metrics.compute()["rmse"]) == pytest.approx(float(squares.mean().sqrt()))
    assert after.kept.compute() == batches[:, 0].flatten().median()


def test_on_another_number_of_ranks_the_epoch_starts_anew(caplog: pytest.LogCaptureFixture) -> None:
    trainer = train("whole", max_epochs=1)
    LoggedResults(trainer).load_all_ranks([State({}), State({})], 0, 1)
    assert "the run had 2 ranks and now has 1; this epoch's logged means are of the rest of it only" in caplog.text


def test_a_value_that_is_logged_in_a_process_group_is_named(caplog: pytest.LogCaptureFixture) -> None:
    """A process group cannot be stored; the warning says which mean is not of the whole epoch."""
    trainer = train("whole", max_epochs=1)
    results = trainer.fit_loop.epoch_loop._results
    results["training_step.loss"].meta.sync.group = object()
    part = LoggedResults(trainer)
    state = part.state()
    assert "training_step.loss" not in state.value["results"]
    part.load_state(state)
    assert "['training_step.loss'] of this epoch: logged in a process group, starts anew" in caplog.text


# Contract tests: each private name that the two files use, as this Lightning and torchmetrics have it.


def test_the_fields_of_what_is_logged() -> None:
    fields = {field.name for field in dataclasses.fields(_Metadata)}
    assert fields == {*METADATA, "reduce_fx", "_sync"}
    assert {field.name for field in dataclasses.fields(_Sync)} == {"fn", "_should", "rank_zero_only", "_op", "_group"}
    mean = _ResultMetric(_Metadata("training_step", "loss"), is_tensor=True)
    assert set(mean._defaults) == {"value", "cumulated_batch_size"}
    assert all(hasattr(mean, name) for name in (*VALUES, "is_tensor", "meta"))
    assert mean.has_reset is False


@pytest.mark.parametrize("reduction", [*REDUCTIONS.values(), "mean", "sum", "max", "min", "avg"])
def test_every_reduction_that_lightning_takes_has_a_name(reduction: Any) -> None:
    meta = _Metadata("training_step", "loss", reduce_fx=reduction)
    assert sum(function is meta.reduce_fx for function in REDUCTIONS.values()) == 1


def test_lightning_takes_no_other_reduction() -> None:
    with pytest.raises(Exception, match="reduce_fx="):
        _Metadata("training_step", "loss", reduce_fx=torch.median)


def test_the_names_of_the_connector_and_the_loops() -> None:
    trainer = Trainer(logger=False, enable_checkpointing=False, accelerator="cpu")
    assert all(hasattr(trainer._logger_connector, name) for name in CONNECTOR)
    assert type(trainer.fit_loop.epoch_loop._results) is _ResultCollection
    assert trainer.fit_loop.epoch_loop.val_loop._seen_batches_per_dataloader[0] == 0


def test_the_names_of_torchmetrics() -> None:
    metric = MeanMetric()
    metric(2.0)
    assert set(metric._defaults) == {"mean_value", "weight"}
    assert [getattr(metric, name) for name in COUNTERS] == [1, torch.tensor(2.0)]


def test_a_restored_value_is_taken_for_the_same_one() -> None:
    """Lightning refuses a value that is logged with other arguments than before: the restored ones must be equal."""
    trainer = train("whole", max_epochs=1)
    part, results = LoggedResults(trainer), trainer.fit_loop.epoch_loop._results
    before = {key: result.meta for key, result in results.items()}
    part.load_state(part.state())
    assert {key: result.meta for key, result in results.items()} == before
    assert Path("whole").exists()
    assert isinstance(results["training_step.running"].value, MeanMetric)
    assert results["training_step.running"].value is trainer.lightning_module.running
    assert isinstance(trainer.lightning_module, Logging)
