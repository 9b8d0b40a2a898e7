"""Clipping, averages, early stopping and what is not finite: in a stock Trainer, and from a recipe."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from lightning import Callback, LightningModule, Trainer
from lightning.pytorch.plugins.environments import LightningEnvironment
from tiny import Composable
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn
from torch.utils.data import DataLoader

from trustformers_pl.errors import NonFiniteError, RefusedError
from trustformers_pl.factory import assemble
from trustformers_pl.loop import exact_loop
from trustformers_pl.optim import EMA, EarlyStopping, SkipNonFinite
from trustformers_pl.precision_order import OrderedPrecision
from trustformers_pl.testing.sections import PLAIN, beside

STEPS = 6
QUIET = {"logger": False, "enable_checkpointing": False, "enable_progress_bar": False, "enable_model_summary": False}


def batches(number: int = STEPS) -> DataLoader[Any]:
    generator = torch.Generator().manual_seed(1)
    made = [(torch.randn(8, 4, generator=generator), torch.randn(8, 1, generator=generator)) for _ in range(number)]
    return DataLoader(made, batch_size=None)  # type: ignore[arg-type]


class Net(Composable):
    """Its loss is not finite at the steps `bad`."""

    def __init__(self, *bad: int) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.bad = bad

    def loss(self, outputs: Tensor, batch: Any) -> tuple[Tensor, Tensor]:
        total, count = super().loss(outputs, batch)
        training = self.training and getattr(self, "_trainer", None) is not None
        return total * (float("inf") if training and self.trainer.global_step in self.bad else 1.0), count

    def configure_optimizers(self) -> Any:
        optimizer = torch.optim.SGD(self.parameters(), lr=0.1)
        schedule = torch.optim.lr_scheduler.StepLR(optimizer, step_size=1, gamma=0.9)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}


class Kept(Callback):
    """A copy of the module after each step."""

    def __init__(self) -> None:
        self.modules: list[nn.Module] = []

    def on_train_batch_end(self, trainer: Trainer, pl_module: LightningModule, *rest: Any) -> None:
        layer: Any = pl_module.layer
        self.modules.append(copy.deepcopy(layer))


def stock(module: LightningModule, *callbacks: Callback, val: Any = None, ordered: bool = True, **more: Any) -> Trainer:
    plugins: list[Any] = [LightningEnvironment(), *([OrderedPrecision()] if ordered else [])]
    arguments = {"accelerator": "cpu", "max_epochs": 1, **QUIET, **more}
    trainer = Trainer(plugins=plugins, callbacks=list(callbacks), **arguments)
    exact_loop(trainer).fit(module, batches(), val)
    return trainer


def same(one: dict[str, Tensor], other: dict[str, Tensor]) -> None:
    for name, value in one.items():
        torch.testing.assert_close(value, other[name], rtol=1e-6, atol=1e-7)


def test_averages_are_those_of_torchs_averaged_model() -> None:
    """Expected: `torch.optim.swa_utils.AveragedModel` with the exponential average, fed with the weights of each step."""
    ema, kept, module = EMA(0.8, warmup=False), Kept(), Net()
    reference = AveragedModel(copy.deepcopy(module.layer), multi_avg_fn=get_ema_multi_avg_fn(0.8))
    reference.update_parameters(module.layer)  # torch's first update copies; ours starts from the weights as they are
    stock(module, ema, kept)
    for layer in kept.modules:
        reference.update_parameters(layer)
    expected = dict(reference.module.named_parameters())
    same({name.removeprefix("layer."): value for name, value in ema.averages.items()}, expected)  # type: ignore[arg-type]
    assert ema.updates == STEPS


def test_the_decay_warms_up_from_a_start_and_at_an_interval() -> None:
    """Expected: the recurrence in float64; from step 2 on, at every second step."""
    ema, kept = EMA(0.5, start_step=2, every_n_steps=2), Kept()
    stock(Net(), ema, kept)
    average = kept.modules[1].weight.double()  # type: ignore[union-attr, operator]
    for update, step in enumerate((3, 5)):
        decay = min(0.5, (1 + update) / (10 + update))
        average = decay * average + (1 - decay) * kept.modules[step].weight.double()  # type: ignore[union-attr, operator]
    torch.testing.assert_close(ema.averages["layer.weight"].double(), average, rtol=1e-6, atol=1e-7)


def test_a_skipped_step_is_not_averaged_and_moves_no_schedule() -> None:
    ema, skip, kept = EMA(0.8), SkipNonFinite(), Kept()
    trainer = stock(Net(1, 3), ema, skip, kept)
    same(dict(kept.modules[0].named_parameters()), dict(kept.modules[1].named_parameters()))
    assert (ema.updates, skip.skipped) == (STEPS - 2, 2)
    assert trainer.lr_scheduler_configs[0].scheduler.last_epoch == STEPS - 2  # type: ignore[union-attr]


def test_without_the_section_the_run_stops_and_too_many_skips_stop_it_too() -> None:
    with pytest.raises(NonFiniteError, match=r"optimizer step 2: the gradients of layer\.weight, layer\.bias"):
        stock(Net(1))
    with pytest.raises(NonFiniteError, match="optimizer step 4: the gradients of 3 steps in a row are not finite"):
        stock(Net(1, 2, 3), SkipNonFinite(max_consecutive=2))
    assert stock(Net(1, 2, 4, 5), SkipNonFinite(max_consecutive=2)).global_step == STEPS


@pytest.mark.parametrize("callback", [EMA(), SkipNonFinite()])
def test_without_the_gradient_order_one_line_says_what_to_give(callback: Callback) -> None:
    with pytest.raises(RefusedError, match=r"plugins=\[OrderedPrecision\(\)\] from trustformers_pl.precision_order"):
        stock(Net(), callback, ordered=False)


class Losses(Callback):
    """The validation losses, and whether the module has its own weights back after each."""

    def __init__(self) -> None:
        self.losses: list[float] = []

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.losses.append(float(trainer.callback_metrics["val_loss"]))


def test_validations_use_the_averages_and_training_its_own_weights() -> None:
    """Expected: the loss of a layer with the averages, computed here; and the weights of a run without averages."""
    ema, losses, module, alone = EMA(0.8), Losses(), Net(), Net()
    stock(module, losses, ema, val=batches(2), num_sanity_val_steps=0)
    stock(alone, val=batches(2))
    same(dict(module.named_parameters()), dict(alone.named_parameters()))
    weight, bias = ema.averages["layer.weight"], ema.averages["layer.bias"]
    data = list(batches(2))
    expected = sum(((x @ weight.T + bias - y) ** 2).sum() for x, y in data) / 16
    assert losses.losses == pytest.approx([float(expected)], rel=1e-5)


def test_an_evaluation_of_a_checkpoint_uses_its_averages() -> None:
    """`validate` of a new run in the same folder gives what the last validation of the fit gave."""
    recipe = beside({"ema": {"decay": 0.9}, "checkpoint": {"every_n_steps": 4}}, {"trainer": {"default_root_dir": "r"}})
    run = assemble(recipe)
    run.fit()
    fitted = float(run.trainer.callback_metrics["val_loss"])
    again = assemble(recipe)
    assert again.validate()["val_loss"] == pytest.approx(fitted, rel=1e-6)
    again.load_weights()
    (ema,) = run.callbacks("EMA")
    same(dict(ema.averages), dict(again.module.named_parameters()))  # type: ignore[arg-type]


@pytest.mark.parametrize(("clip", "function"), [({"norm": 0.01}, "norm"), ({"value": 0.002}, "value")])
def test_clipping_is_torchs(clip: dict[str, float], function: str) -> None:
    """Expected: one step of SGD by hand, with `clip_grad_norm_` or `clip_grad_value_`."""
    recipe = beside({"clip": clip, "optimizer": {"name": "sgd", "lr": 1.0}}, steps=1)
    recipe["model"]["init_args"]["dropout"] = 0.0  # type: ignore[index]
    run = assemble(recipe)
    start = copy.deepcopy(run.module)
    batch: list[Any] = []

    class Seen(Callback):
        def on_train_batch_start(
            self, trainer: Trainer, pl_module: LightningModule, given: Any, batch_idx: int
        ) -> None:
            batch.append(given)

    run.trainer.callbacks.append(Seen())  # type: ignore[attr-defined]
    run.fit()
    total, count = start.loss(start(batch[0]), batch[0])
    (total / count).backward()
    parameters = list(start.parameters())
    if function == "norm":
        nn.utils.clip_grad_norm_(parameters, clip["norm"])
    else:
        nn.utils.clip_grad_value_(parameters, clip["value"])
    expected = {name: p.detach() - p.grad for name, p in start.named_parameters() if p.grad is not None}
    same(expected, {name: p.detach() for name, p in run.module.named_parameters()})


def test_a_run_stops_when_validations_no_longer_improve_and_stays_stopped() -> None:
    """No improvement is large enough: with patience 2 the third validation stops the run; a resume does nothing more."""
    stopping = {"early_stopping": {"patience": 2, "min_delta": 100.0}, "checkpoint": {"every_n_steps": 50}}
    trainer = {"trainer": {"default_root_dir": "r", "max_steps": 40, "val_check_interval": 2}}
    run = assemble(beside(stopping, trainer))
    run.fit()
    assert run.trainer.global_step == 6
    assert "patience" in run.probe()["early_stopping"]  # type: ignore[operator]
    again = assemble(beside(stopping, trainer))
    again.fit()
    assert again.trainer.global_step == 6
    longer = assemble(beside({**stopping, "early_stopping": {"patience": 4, "min_delta": 100.0}}, trainer))
    longer.fit("force")
    assert longer.trainer.global_step == 10


def test_stopping_counts_as_lightnings_own_does() -> None:
    """Expected: `lightning.pytorch.callbacks.EarlyStopping` on the same series of validation losses."""
    from lightning.pytorch import callbacks

    series = [3.0, 2.0, 2.5, 1.99, 2.1, 2.2, 1.5, 9.0]

    class Series(Net):
        def validation_step(self, batch: Any, batch_idx: int) -> None:  # type: ignore[override]
            self.log("val_loss", series[self.trainer.current_epoch])

    steps = []
    for callback in (EarlyStopping(patience=2, min_delta=0.05), callbacks.EarlyStopping("val_loss", 0.05, 2)):
        module = Series()
        trainer = stock(module, callback, val=batches(1), max_epochs=len(series), num_sanity_val_steps=0)
        steps.append(trainer.global_step)
    assert steps == [4 * STEPS, 4 * STEPS]


@pytest.mark.parametrize(
    ("sections", "message"),
    [
        (
            {"early_stopping": {"monitor": "val_los"}},
            "early_stopping.monitor = 'val_los' is not logged; validations have",
        ),
        ({"early_stopping": {}, "trainer": {"limit_val_batches": 0}}, "this run has none; give it validation data"),
    ],
)
def test_stopping_without_anything_to_look_at_is_refused(sections: Any, message: str) -> None:
    with pytest.raises(RefusedError, match=message):
        assemble(beside(sections)).fit()


@pytest.mark.parametrize(
    ("argument", "section"),
    [
        ("gradient_clip_val: 1.0", "clip"),
        ("accumulate_grad_batches: 2", "accumulate"),
        ("precision: 16-mixed", "precision"),
    ],
)
def test_trainer_arguments_point_to_their_sections(argument: str, section: str) -> None:
    name, _, value = argument.partition(": ")
    given = {**PLAIN, "trainer": {**PLAIN["trainer"], name: float(value) if "." in value else value}}
    if value == "2":
        given["trainer"][name] = 2
    with pytest.raises(Exception, match=f"trainer.{name} is owned by the section `{section}`"):
        assemble(given)
