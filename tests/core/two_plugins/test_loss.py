"""Rule A: what is minimised comes from many, who runs the step is one."""

from __future__ import annotations

from typing import Any

import pytest
import tiny
import torch
from torch import Tensor
from two_parts import Rows, Typed, as_started, data, first_batch, stock

from trustformers_pl import LossTerm, SampleWeights
from trustformers_pl.errors import RefusedError
from trustformers_pl.factory import assemble
from trustformers_pl.precision_order import OrderedPrecision
from trustformers_pl.steps import sequential
from trustformers_pl.tracking import Metrics

TERMS = """
def squares(module, outputs, batch):
    return (module.layer.weight ** 2).sum(), module.layer.weight.numel()
def bias(module, outputs, batch):
    return module.layer.bias.sum(), 1
"""
NAMES: dict[str, Any] = {}
exec(TERMS, NAMES)
SQUARES, BIAS = '[LossTerm("squares", squares, weight=3.0)]', '[LossTerm("bias", bias, weight=0.5)]'


def expected_gradients() -> list[Tensor]:
    """By torch alone: mean squared error + 3 x mean squared weight + 0.5 x bias."""
    module, batch = as_started(tiny.Composable()), first_batch()
    error = ((module.layer(batch[0]) - batch[1]) ** 2).mean()
    (error + 3.0 * (module.layer.weight**2).mean() + 0.5 * module.layer.bias.sum()).backward()
    return [p.grad for p in module.parameters()]


def assert_both_terms(module: torch.nn.Module, row: dict[str, float]) -> None:
    for p, expected in zip(module.parameters(), expected_gradients(), strict=True):
        torch.testing.assert_close(p.grad, expected)
    start = as_started(tiny.Composable()).layer
    assert row["squares"] == pytest.approx(float((start.weight**2).mean()))
    assert row["bias"] == pytest.approx(float(start.bias.sum()))


def test_two_loss_terms_are_added_with_their_weights_and_logged_under_their_names(two: Any) -> None:
    rows = "trainer.callbacks=[{class_path: trustformers_pl.tracking.Metrics}]"
    run = two("loss_terms", zzz=SQUARES, aaa=BIAS, more=TERMS, overrides=(rows,))
    assert_both_terms(run.module, {name: float(value) for name, value in run.trainer.callback_metrics.items()})


@pytest.mark.parametrize("plugins", [[], [OrderedPrecision()]], ids=["Precision", "OrderedPrecision"])
def test_the_same_terms_in_a_stock_trainer(write: Any, plugins: list[Any]) -> None:
    write()
    module, rows = as_started(Typed()), Rows()
    module.loss_terms = (LossTerm("squares", NAMES["squares"], 3.0), LossTerm("bias", NAMES["bias"], 0.5))
    stock(logger=rows, callbacks=[Metrics()], log_every_n_steps=1, plugins=plugins).fit(module, data())
    assert_both_terms(module, rows.rows[0][1])


def test_two_terms_of_one_name_are_refused(refused: Any) -> None:
    assert refused("loss_terms", zzz=SQUARES, aaa=SQUARES, more=TERMS) == (
        RefusedError,
        "recipe.yaml:10: zzz and aaa both bring a loss term 'squares', which is its name in the log; remove one, or "
        "rename it",
    )


def test_two_terms_of_one_name_in_a_stock_trainer(write: Any) -> None:
    write()
    module = as_started(Typed())
    module.loss_terms = (LossTerm("squares", NAMES["squares"]), LossTerm("squares", NAMES["bias"]))
    with pytest.raises(RefusedError, match=r"^loss term 'squares': 2 terms have this name; give each its own$"):
        stock().fit(module, data())


@pytest.mark.parametrize("name", ["loss", "loss_sum", "count", "train_loss", "val_loss", "test_loss"])
def test_a_term_of_the_losss_own_name_is_refused(name: str) -> None:
    with pytest.raises(
        RefusedError, match=f"loss term '{name}': loss, loss_sum, count, .* are names of the module's own; rena"
    ):
        LossTerm(name, NAMES["bias"])


def test_a_term_that_metrics_would_write_over_is_refused(two: Any) -> None:
    with pytest.raises(RefusedError, match="metrics logs 'lr' itself, and a loss term has that name; rename the term"):
        two("loss_terms", zzz='[LossTerm("lr", bias)]', aaa="None", more=TERMS, recipe="metrics: {}\n")


WEIGHTS = """
def first_only(module, batch):
    weights = batch[0].new_zeros(len(batch[0]))
    weights[0] = 4.0
    return weights
def halves(module, batch):
    return batch[0].new_full((len(batch[0]),), 0.5)
"""
exec(WEIGHTS, NAMES)


def assert_weighted(module: Any) -> None:
    """By hand: the first sample counts 4 x 0.5, the others nothing; the mean is over all."""
    started, batch = as_started(tiny.Weighable()), first_batch()
    (2.0 * ((started.layer(batch[0]) - batch[1]) ** 2)[0].sum() / len(batch[0])).backward()
    for p, expected in zip(module.parameters(), started.parameters(), strict=True):
        torch.testing.assert_close(p.grad, expected.grad)


def test_sample_weights_of_two_are_multiplied(two: Any) -> None:
    zzz, aaa = '[SampleWeights("first", first_only)]', '[SampleWeights("halves", halves)]'
    weighable = ("model.class_path=tiny.Weighable",)
    assert_weighted(two("sample_weights", zzz=zzz, aaa=aaa, more=WEIGHTS, overrides=weighable).module)


def test_the_same_sample_weights_in_a_stock_trainer(write: Any) -> None:
    class Weighable(tiny.Weighable, Typed):
        pass

    write()
    module = as_started(Weighable())
    module.sample_weights = tuple(SampleWeights(name, NAMES[name]) for name in ("first_only", "halves"))
    stock().fit(module, data())
    assert_weighted(module)


def doubled(module: Any, batch: Any) -> Any:
    loss, contributions = sequential(module, batch)
    return 2 * loss, contributions


def executor() -> Any:
    return doubled


def test_the_owner_of_the_step_gets_the_terms_of_another(write: Any, install_two: Any, install: Any) -> None:
    install_two("loss_terms", zzz=SQUARES, aaa=BIAS, more=TERMS)
    source = """
    from trustformers_pl import Plugin, Traits, hookimpl, part
    class Feature(Plugin):
        "Doubles what is minimised."
        traits = classmethod(lambda cls, config: Traits(claims=frozenset({"step"})))
        step = hookimpl(lambda self, plan: part("test_loss:executor"))
    """
    install("step-pack", source, trustformers_pl={"double": "Feature"})
    run = assemble(write(more="aaa: {}\nzzz: {}\ndouble: {}\n"), ["trainer.max_steps=1"])
    run.fit("never")
    by_hand = as_started(Typed())
    by_hand.loss_terms = (LossTerm("squares", NAMES["squares"], 3.0), LossTerm("bias", NAMES["bias"], 0.5))
    by_hand.step_executor = doubled
    stock().fit(by_hand, data())
    for module in (run.module, by_hand):
        for p, expected in zip(module.parameters(), expected_gradients(), strict=True):
            torch.testing.assert_close(p.grad, 2 * expected)
