"""What cutting batches cannot mend, and says so."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any

import pytest
import tiny
import torch
from crowded import (
    ON,
    RECIPE,
    Stock,
    Write,
    fit,
)
from torch import nn

from trustformers_pl import LossTerm, assemble
from trustformers_pl.errors import DataError, DeviceMemoryError, RefusedError
from trustformers_pl.faults.pieces import samples_in

if TYPE_CHECKING:
    from collections.abc import Callable


class Normalised(Stock):
    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.BatchNorm1d(4)


@pytest.mark.parametrize(
    ("module", "match"),
    [
        (tiny.Plain(), "cuts batches by loss sums and counts, and Plain has none"),
        (Normalised(), r"Normalised\.norm normalises over the batch"),
    ],
)
def test_modules_that_cannot_be_cut_are_refused(module: Any, match: str) -> None:
    with pytest.raises(RefusedError, match=match):
        fit(module, 1)


def test_loss_terms_that_do_not_say_what_they_count_are_refused() -> None:
    module = Stock()
    module.loss_terms = (LossTerm("mute", lambda m, o, b: (o.sum(), torch.tensor(1.0))),)
    with pytest.raises(RefusedError, match=r"cuts batches into micro-batches: loss term 'mute' does not say"):
        fit(module, 1)


def test_another_owner_of_the_step_is_refused() -> None:
    module = Stock()
    module.step_executor = lambda module, batch: None  # type: ignore[assignment]
    with pytest.raises(RefusedError, match=r"runs the training step, which .* runs already"):
        fit(module, 1)


def test_a_plain_training_step_is_refused_in_a_recipe(write: Write) -> None:
    recipe = RECIPE.replace("crowded.Small", "tiny.Plain")
    with pytest.raises(RefusedError, match="out_of_memory needs decomposed-loss, which Plain does not provide"):
        assemble(write(recipe + ON))


ANOTHER = """
from trustformers_pl import Plugin, Traits, hookimpl, part
class Feature(Plugin):
    "A stranger's executor."
    traits = classmethod(lambda cls, config: Traits(claims=frozenset({"step"})))
    @hookimpl
    def step(self, plan):
        return part("trustformers_pl.steps:sequential")
"""


def test_two_owners_of_the_step_are_refused_in_a_recipe(write: Write, install: Callable[..., Any]) -> None:
    install("a-pack", ANOTHER, trustformers_pl={"episodes": "Feature"})
    with pytest.raises(RefusedError, match="out_of_memory and episodes both claim step"):
        assemble(write(RECIPE + ON + "episodes: {}\n"))


def test_what_does_not_fit_in_the_smallest_pieces_ends_the_run(write: Write, caplog: pytest.LogCaptureFixture) -> None:
    run = assemble(write(RECIPE + ON), ["model.init_args.rows=1", "out_of_memory.max_splits=2"])
    with (
        caplog.at_level(logging.WARNING, "trustformers_pl.faults"),
        pytest.raises(DeviceMemoryError, match=r"^out of memory with a batch of 8 samples in 4 pieces \(out_of_memory"),
    ):
        run.fit()
    assert "batches are cut into 4 pieces from now on (at most 4)" in caplog.text


def test_a_sample_that_does_not_fit_ends_the_run(write: Write) -> None:
    run = assemble(write(RECIPE + ON), ["model.init_args.rows=0"])
    with pytest.raises(DeviceMemoryError, match=r"8 samples in 8 pieces \(one sample each\)"):
        run.fit()


def test_a_batch_that_cannot_be_cut_ends_the_run() -> None:
    module = Stock(rows=4)
    module.on_train_batch_start = lambda batch, batch_idx: batch.append(torch.zeros(3))  # type: ignore[method-assign]
    with pytest.raises(DeviceMemoryError, match=r"^out of memory, and a batch with tensors of first sizes 3, 8 cannot"):
        fit(module, 1)


def test_other_errors_pass() -> None:
    module = Stock()
    module.loss = lambda outputs, batch: 1 / 0  # type: ignore[method-assign,assignment]
    with pytest.raises(ZeroDivisionError):
        fit(module, 1)
    assert "step_executor" not in vars(module)


@pytest.mark.parametrize(
    ("batch", "found"),
    [
        ([torch.zeros(4), torch.zeros(3, 4)], "tensors of first sizes 3, 4"),
        ({"a": "text"}, "no tensors"),
    ],
)
def test_a_batch_whose_samples_nobody_knows_is_refused(batch: Any, found: str) -> None:
    with pytest.raises(DataError, match=f"a batch with {found} cannot be cut"):
        samples_in(batch)
