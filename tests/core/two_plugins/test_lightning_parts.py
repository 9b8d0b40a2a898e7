"""Callbacks, loggers and Trainer plugins of two packages; the same parts by hand in a stock Trainer."""

from __future__ import annotations

from typing import Any

import pytest
from lightning.fabric.utilities.exceptions import MisconfigurationException
from two_parts import Change, Rows, Typed, as_started, assert_changed, data, stock

from trustformers_pl.checkpoint import FolderCheckpointIO
from trustformers_pl.errors import RefusedError
from trustformers_pl.precision_order import OrderedPrecision
from trustformers_pl.tracking import Metrics

TRIPLE, ADD_ONE = 'part("two_parts:Change", 3.0, 0.0)', 'part("two_parts:Change", 1.0, 1.0)'


def test_callbacks_run_in_plugin_order(two: Any) -> None:
    assert_changed(two("callbacks", zzz=f"[{TRIPLE}]", aaa=f"[{ADD_ONE}]"), 3.0, 1.0)


def test_callbacks_of_the_recipe_come_after_those_of_features(two: Any) -> None:
    own = "trainer.callbacks=[{class_path: two_parts.Change, init_args: {factor: 2.0, amount: 0.0}}]"
    assert_changed(two("callbacks", zzz=f"[{TRIPLE}]", aaa=f"[{ADD_ONE}]", overrides=(own,)), 6.0, 2.0)


def test_the_same_callbacks_in_a_stock_trainer(write: Any) -> None:
    write()
    module = as_started(Typed())
    stock(callbacks=[Change(3.0, 0.0), Change(1.0, 1.0)]).fit(module, data())
    assert_changed(module, 3.0, 1.0)


def test_every_logger_gets_every_row(two: Any) -> None:
    run = two("loggers", zzz='[part("two_parts:Rows")]', aaa='[part("two_parts:Rows")]', recipe="metrics: {}\n")
    first, second = run.trainer.loggers
    assert first is not second
    assert first.rows == second.rows
    assert first.rows[0][1]["train_loss"] > 0


def test_the_same_loggers_in_a_stock_trainer(write: Any) -> None:
    write()
    loggers = [Rows(), Rows()]
    stock(logger=loggers, callbacks=[Metrics()], log_every_n_steps=1).fit(as_started(Typed()), data())
    assert loggers[0].rows == loggers[1].rows
    assert loggers[0].rows[0][1]["train_loss"] > 0


IO = '[part("trustformers_pl.checkpoint:FolderCheckpointIO")]'


def test_two_plugins_of_one_kind_are_refused(refused: Any) -> None:
    assert refused("plugins", zzz=IO, aaa=IO) == (
        RefusedError,
        "recipe.yaml:10: zzz and aaa both bring a CheckpointIO, and a Trainer takes one; remove one of the two",
    )


@pytest.mark.parametrize(
    ("target", "said"),
    [
        (
            "lightning.pytorch.plugins.precision:Precision",
            "a Precision, and that of every run keeps the gradient order; own `trainer.precision`, or answer the hook "
            "`gradient`",
        ),
        (
            "lightning.pytorch.plugins.environments:LightningEnvironment",
            "a ClusterEnvironment, and that of every run is found from the launcher; leave it to the engine",
        ),
    ],
)
def test_what_the_engine_brings_no_section_brings(refused: Any, target: str, said: str) -> None:
    assert refused("plugins", zzz=f'[part("{target}")]', aaa="None") == (
        RefusedError,
        f"recipe.yaml:11: zzz brings {said}",
    )


def test_a_stock_trainer_refuses_two_of_one_kind_itself() -> None:
    with pytest.raises(MisconfigurationException, match="multiple values for CheckpointIO"):
        stock(plugins=[FolderCheckpointIO(), FolderCheckpointIO()])
    with pytest.raises(MisconfigurationException, match="multiple values for Precision"):
        stock(plugins=[OrderedPrecision(), OrderedPrecision()])
