"""Two plugins on one hook: both take part, in an order that is declared, or they are refused with the reason.

`aaa` comes after `zzz` by its traits, against the alphabet: whatever goes by name alone comes out the other way round.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import tiny
import torch
from lightning import Trainer, seed_everything
from torch.utils.data import DataLoader, TensorDataset

from trustformers_pl.environment import cluster_environment
from trustformers_pl.errors import RecipeError, RefusedError
from trustformers_pl.factory import assemble

if TYPE_CHECKING:
    from trustformers_pl.run import Run

PACK = """
    from lightning import Callback
    from lightning.pytorch.loggers import Logger
    from trustformers_pl import Plugin, Traits, hookimpl, part
    from trustformers_pl.report import ReportSection

    class Change(Callback):
        "g -> factor * g + amount, just before the optimizer's step"
        def __init__(self, factor, amount):
            self.factor, self.amount = factor, amount
        def on_before_optimizer_step(self, trainer, module, optimizer):
            for p in module.parameters():
                p.grad.mul_(self.factor).add_(self.amount)

    class Rows(Logger):
        name = version = ""
        def __init__(self):
            super().__init__()
            self.rows = []
        def log_metrics(self, metrics, step=None):
            self.rows.append((step, dict(metrics)))
        def log_hyperparams(self, *arguments, **keywords):
            pass

    class AddsOne:
        def on_before_optimizer_step(self, optimizer):
            super().on_before_optimizer_step(optimizer)
            for p in self.parameters():
                p.grad.add_(1.0)

    class Triples:
        def on_before_optimizer_step(self, optimizer):
            super().on_before_optimizer_step(optimizer)
            for p in self.parameters():
                p.grad.mul_(3.0)

    class First(Plugin):
        "Comes first, though its name comes last."
        callbacks = hookimpl(lambda self, plan: {zzz_callbacks})
        loggers = hookimpl(lambda self, plan: {zzz_loggers})
        module_mixins = hookimpl(lambda self, plan: {zzz_mixins})
        plugins = hookimpl(lambda self, plan: {zzz_plugins})
        check = hookimpl(lambda self, plan: {zzz_check})
        probe = hookimpl(lambda self, run: f"zzz saw {{run.trainer.global_step}} steps")
        report = hookimpl(lambda self, run: [ReportSection("Of zzz", "z")])

    class Second(Plugin):
        "Comes second, though its name comes first."
        @classmethod
        def traits(cls, config):
            return Traits(after=frozenset({{"zzz"}}))
        callbacks = hookimpl(lambda self, plan: {aaa_callbacks})
        loggers = hookimpl(lambda self, plan: {aaa_loggers})
        module_mixins = hookimpl(lambda self, plan: {aaa_mixins})
        plugins = hookimpl(lambda self, plan: {aaa_plugins})
        check = hookimpl(lambda self, plan: {aaa_check})
        probe = hookimpl(lambda self, run: None)
        report = hookimpl(lambda self, run: [ReportSection("Of aaa", "a")])
"""
NAMES = [
    f"{plugin}_{hook}" for plugin in ("aaa", "zzz") for hook in ("callbacks", "loggers", "mixins", "plugins", "check")
]


@pytest.fixture
def two(write: Any, install: Any) -> Any:
    """Install both plugins with these answers, and train one step with them from a recipe."""

    def two_(**answers: str) -> Run:
        source = PACK.format(**dict.fromkeys(NAMES, "None") | answers)
        install("two-pack", source, trustformers_pl={"aaa": "Second", "zzz": "First"})
        run = assemble(write(more="aaa: {}\nzzz: {}\n"), ["trainer.max_steps=1", "trainer.log_every_n_steps=1"])
        run.fit("never")
        return run

    return two_


def plain_gradients() -> list[torch.Tensor]:
    """Of the first step of the base recipe, without any plugin, by torch alone."""
    module, batch = started()
    (((module.layer(batch[0]) - batch[1]) ** 2).sum() / len(batch[1])).backward()
    return [p.grad for p in module.parameters()]  # type: ignore[misc]


def started() -> tuple[tiny.Composable, list[torch.Tensor]]:
    run = assemble("recipe.yaml", ["no-aaa", "no-zzz"])
    return run.module, next(iter(run.datamodule.train_dataloader()))  # type: ignore[return-value,union-attr]


def assert_changed(run: Run, factor: float, amount: float) -> None:
    for p, expected in zip(run.module.parameters(), plain_gradients(), strict=True):
        torch.testing.assert_close(p.grad, factor * expected + amount)


def test_callbacks_run_in_plugin_order(two: Any) -> None:
    run = two(zzz_callbacks='[part("two_pack:Change", 3.0, 0.0)]', aaa_callbacks='[part("two_pack:Change", 1.0, 1.0)]')
    assert_changed(run, 3.0, 1.0)


def test_the_same_callbacks_in_a_stock_trainer(two: Any) -> None:
    """The parts alone, given by hand in the order that the engine gives them."""
    run = two(zzz_callbacks='[part("two_pack:Change", 3.0, 0.0)]', aaa_callbacks='[part("two_pack:Change", 1.0, 1.0)]')
    from two_pack import Change  # type: ignore[import-not-found]

    class Stock(tiny.Composable):
        def configure_optimizers(self) -> torch.optim.Optimizer:
            return torch.optim.AdamW(self.parameters(), lr=1e-3)

    module, batch = Stock(), started()[1]
    module.load_state_dict(assemble("recipe.yaml", ["no-aaa", "no-zzz"]).module.state_dict())
    seed_everything(0, verbose=False)
    quiet = {"logger": False, "enable_checkpointing": False, "enable_progress_bar": False}
    trainer = Trainer(
        max_steps=1,
        accelerator="cpu",
        plugins=[cluster_environment()],
        callbacks=[Change(3.0, 0.0), Change(1.0, 1.0)],
        **quiet,
    )
    trainer.fit(module, DataLoader(TensorDataset(*batch), len(batch[0])))
    for p, expected in zip(module.parameters(), run.module.parameters(), strict=True):
        torch.testing.assert_close(p.grad, expected.grad)


def test_mixins_of_earlier_plugins_stand_first_and_both_are_called(two: Any) -> None:
    """`class Module(Triples, AddsOne, ...)`: each calls `super()` first, so it is 3 * (g + 1)."""
    run = two(zzz_mixins='["two_pack:Triples"]', aaa_mixins='["two_pack:AddsOne"]')
    assert [cls.__name__ for cls in type(run.module).__mro__[3:5]] == ["Triples", "AddsOne"]
    assert_changed(run, 3.0, 3.0)


def test_every_logger_gets_every_row(two: Any) -> None:
    run = two(
        zzz_loggers='[part("two_pack:Rows")]',
        aaa_loggers='[part("two_pack:Rows")]',
        zzz_callbacks="[part('trustformers_pl.tracking:Metrics')]",
    )
    first, second = run.trainer.loggers
    assert first is not second
    assert first.rows == second.rows  # type: ignore[attr-defined]
    assert first.rows[0][1]["train_loss"] > 0  # type: ignore[attr-defined]


def test_two_parts_where_lightning_takes_one_are_refused(two: Any) -> None:
    answer = '[part("trustformers_pl.checkpoint:FolderCheckpointIO")]'
    with pytest.raises(
        RecipeError, match=r"recipe\.yaml:6: trainer: Lightning refuses this: Received multiple values for CheckpointIO"
    ):
        two(zzz_plugins=answer, aaa_plugins=answer)


def test_reasons_of_both_checks_are_told_in_plugin_order(two: Any) -> None:
    with pytest.raises(RefusedError, match=r"^zzz says no\naaa says no$"):
        two(zzz_check='["zzz says no"]', aaa_check='["aaa says no"]')


def test_both_probe_and_report_in_plugin_order(two: Any) -> None:
    run = two()
    assert list(run.probe().items())[-2:] == [("zzz", "zzz saw 1 steps"), ("aaa", None)]
    headings = [line for line in Path("runs/recipe/report.md").read_text().splitlines() if line.startswith("## ")]
    assert headings == ["## Of zzz", "## Of aaa"]
