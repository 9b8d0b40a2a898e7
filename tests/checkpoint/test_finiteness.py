"""A checkpoint that holds NaN or infinity says so, pushes no finite one out, and is what no run goes back to."""

from __future__ import annotations

import json
import logging
import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import tiny
import torch
from lightning import Callback, LightningModule, Trainer
from torch.utils.data import DataLoader, TensorDataset

from trustformers_pl import assemble
from trustformers_pl.checkpoint import Checkpoint, best, load, resume_path
from trustformers_pl.checkpoint.codec import encode
from trustformers_pl.checkpoint.finiteness import first_not_finite
from trustformers_pl.checkpoint.folder import steps, write_state
from trustformers_pl.checkpoint.keeping import newest_finite
from trustformers_pl.checkpoint.tensorfile import DTYPES
from trustformers_pl.data import resumable_datamodule
from trustformers_pl.faults import RollBack, Spikes
from trustformers_pl.faults.going_back import newest_finite as to_go_back_to
from trustformers_pl.precision_order import OrderedPrecision

if TYPE_CHECKING:
    from collections.abc import Callable

FOLDER = Path("checkpoints")
NAN, INF = float("nan"), float("inf")


def told(step: int) -> dict[str, Any]:
    return json.loads((FOLDER / f"step-{step:08d}/manifest.json").read_text())["metadata"]  # type: ignore[no-any-return]


@pytest.mark.parametrize("dtype", DTYPES.values(), ids=str)
def test_it_finds_what_torch_finds_in_every_dtype(dtype: torch.dtype) -> None:
    for spoiled in (1.0, NAN, INF, -INF, torch.finfo(dtype).max if dtype.is_floating_point else 1.0):
        values = [1.0, 0.0, 1.0, spoiled, 1.0, spoiled] if dtype.is_floating_point or dtype.is_complex else [1, 0, 1]
        tensor = torch.tensor(values).to(dtype)
        seen = tensor if dtype.is_complex else tensor.double()  # 8 bits know no `isfinite`
        expected = None if bool(seen.isfinite().all()) else "state_dict.a"
        assert first_not_finite({"state_dict.a": tensor}) == expected, spoiled


def test_infinity_in_a_buffer_and_what_is_no_weight_are_let_be() -> None:
    _, tensors = encode(
        {"state_dict": {"mask": torch.full((2, 2), -INF).triu(1)}, "callbacks": {"lowest": torch.tensor(INF)}}
    )
    assert first_not_finite(tensors) == "state_dict.mask"
    assert first_not_finite(tensors, ["mask"]) is None
    tensors["state_dict.mask"][0] = NAN
    assert first_not_finite(tensors, ["mask"]) == "state_dict.mask"


class Model(tiny.Composable):
    def __init__(self) -> None:
        torch.manual_seed(0)
        super().__init__()
        self.register_buffer("mask", torch.full((3, 3), -INF).triu(1))

    def configure_optimizers(self) -> Any:
        return torch.optim.SGD(self.parameters(), lr=0.02, momentum=0.9)


class Spoil(Callback):
    """Puts a value into the weights, or into the optimizer's state, from one step on."""

    def __init__(self, step: int, value: float, *, optimizer: bool = False) -> None:
        self.step, self.value, self.optimizer = step, value, optimizer

    def on_train_batch_end(self, trainer: Trainer, pl_module: LightningModule, *rest: Any) -> None:
        if trainer.global_step >= self.step:
            weight: Any = pl_module.layer.weight  # type: ignore[union-attr]
            where = trainer.optimizers[0].state[weight]["momentum_buffer"] if self.optimizer else weight
            with torch.no_grad():
                where[0, 0] = self.value


def fit(*callbacks: Callback, steps: int = 10, keep_last: int = 1, **more: Any) -> Trainer:
    """A Trainer without our gradient order lets NaN pass; with `RollBack` it has to have it."""
    ordered = any(isinstance(callback, RollBack | Spikes) for callback in callbacks)
    trainer = Trainer(
        max_steps=steps,
        accelerator="cpu",
        logger=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        limit_val_batches=0,
        callbacks=[*callbacks, Checkpoint(folder=str(FOLDER), every_n_steps=1, keep_last=keep_last, **more)],
        plugins=[OrderedPrecision()] if ordered else None,
    )
    trainer.fit(Model(), resumable_datamodule(tiny.Data(count=80), seed=0), ckpt_path=resume_path(FOLDER))
    return trainer


@pytest.mark.parametrize(
    ("spoil", "name"),
    [
        (Spoil(5, NAN), "state_dict.layer.weight"),
        (Spoil(5, INF), "state_dict.layer.weight"),
        # The weights are still finite at step 5, and no longer at step 6.
        (Spoil(5, NAN, optimizer=True), "optimizer_states.0.state.0.momentum_buffer"),
    ],
)
@pytest.mark.parametrize("background", [True, False])
def test_the_last_finite_one_stays(spoil: Spoil, name: str, background: bool, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING, "trustformers_pl.checkpoint"):
        fit(spoil, background=background)
    assert list(steps(FOLDER)) == [4, 10]
    assert told(4)["finite"] is True
    assert told(10)["finite"] is False
    assert f"step-00000005: {name} is not finite; step-00000004, the newest one that is finite, stays" in caplog.text
    assert all(
        torch.isfinite(value).all()
        for key, value in load(FOLDER / "step-00000004")["state_dict"].items()
        if key != "mask"
    )


def test_a_resume_takes_the_newest_and_names_the_finite_one(caplog: pytest.LogCaptureFixture) -> None:
    fit(Spoil(5, NAN), keep_last=2)
    with caplog.at_level(logging.WARNING, "trustformers_pl.checkpoint"):
        assert resume_path(FOLDER) == str(FOLDER / "step-00000010")
    assert (
        "step-00000010: state_dict.layer.weight is not finite; step-00000004 is: to go on from there, "
        "move step-00000009, step-00000010 away"
    ) in caplog.text
    for step in (9, 10):
        shutil.rmtree(FOLDER / f"step-{step:08d}")
    caplog.clear()
    assert resume_path(FOLDER) == str(FOLDER / "step-00000004")
    assert not caplog.text


def test_where_none_is_finite_they_are_kept_as_always(caplog: pytest.LogCaptureFixture) -> None:
    fit(Spoil(0, NAN), keep_last=2)
    assert list(steps(FOLDER)) == [9, 10]
    with caplog.at_level(logging.WARNING, "trustformers_pl.checkpoint"):
        resume_path(FOLDER)
    assert "no checkpoint of this run is finite" in caplog.text


def test_ls_tells_of_it(command: Callable[..., Any]) -> None:
    fit(Spoil(5, NAN))
    _, listed, _ = command("checkpoint", "ls", str(FOLDER))
    rows = listed.splitlines()[1:]
    assert [row.endswith("sizes agree") for row in rows] == [True, False]
    assert rows[1].endswith("sizes agree; state_dict.layer.weight is not finite")


def test_a_run_goes_back_behind_what_an_earlier_one_saved_and_leaves_none_of_it() -> None:
    fit(Spoil(5, NAN), keep_last=3)
    assert list(steps(FOLDER)) == [4, 8, 9, 10]
    back = RollBack()
    trainer = fit(back, steps=12)
    assert back.rollbacks.done == 1
    assert trainer.global_step == 12
    assert list(steps(FOLDER)) == [12]
    assert told(12)["finite"] is True


def test_a_kill_after_going_back_does_not_lead_to_what_was_given_up() -> None:
    fit(Spoil(5, NAN), keep_last=3)

    class Ends(Callback):
        at_end_of_boundary = True

        def on_step_boundary(self, trainer: Trainer, pl_module: LightningModule) -> None:
            if trainer.global_step < 10:
                raise KeyError("ends")

    with pytest.raises(KeyError):
        fit(RollBack(), Ends(), steps=12)
    assert resume_path(FOLDER) == str(FOLDER / "step-00000004")


def test_checkpoints_of_before_there_was_such_a_note_are_looked_at() -> None:
    trainer = fit()
    newest, saver = load(FOLDER / "step-00000010", mapped=False), trainer.callbacks[-1]  # type: ignore[attr-defined]
    for step, value in ((11, 1.0), (12, NAN)):
        weights = {**newest["state_dict"], "layer.bias": torch.tensor([value])}
        write_state(FOLDER / f"step-{step:08d}", {**newest, "state_dict": weights})
    path, _ = to_go_back_to(trainer, saver) or ("", {})
    assert Path(path).name == "step-00000011"
    assert newest_finite(steps(FOLDER)) == 12  # nobody has looked: it is not known to be bad


class Wild(tiny.Data):
    """Its batches 6 and 13 are far from the others: the samples 4·b to 4·b + 3 are the batch b."""

    def train_dataloader(self) -> DataLoader[Any]:
        x, y = (part.clone() for part in tiny.samples(self.count).tensors)
        for batch in (6, 13):
            y[4 * batch : 4 * batch + 4] = 1e4
        return DataLoader(TensorDataset(x, y), self.batch_size)


RECIPE = """\
model: {class_path: tiny.Composable}
data: {class_path: test_finiteness.Wild, init_args: {count: 80, shuffle: false}}
trainer: {max_steps: 16, accelerator: cpu, val_check_interval: 1, check_val_every_n_epoch: null}
optimizer: {name: sgd, lr: 0.02}
spikes: {factor: 20.0, window: 8, policy: roll_back}
checkpoint: {every_n_steps: 5, keep_last: 100, best: {monitor: val_loss, mode: max, keep: 3}}
"""


@pytest.mark.parametrize("mode", ["min", "max"])
def test_a_step_that_was_gone_back_to_is_ranked_by_its_own_validation(write: Callable[..., str], mode: str) -> None:
    """The validation before a roll-back is of weights that are given up: it says nothing of those gone back to."""
    run = assemble(write(RECIPE), [f"checkpoint.best.mode={mode}"])
    run.fit()
    (spikes,) = run.callbacks("Spikes")
    assert spikes.rollbacks.done == 2
    found = {}
    for step, path in steps(run.folder / "checkpoints").items():
        run.module.load_state_dict(load(path)["state_dict"])
        (result,) = run.trainer.validate(run.module, run.datamodule, verbose=False)
        found[step] = float(result["val_loss"])
        if value := json.loads((path / "manifest.json").read_text())["metadata"].get("monitored"):
            assert value["val_loss"] == pytest.approx(found[step], rel=1e-6), step
    (saver,) = run.callbacks("Checkpoint")
    assert len(saver.ranking.best) == 3
    assert {step: pytest.approx(found[step], rel=1e-6) for step, _ in saver.ranking.best} == dict(saver.ranking.best)
    sign = 1 if mode == "min" else -1
    assert (
        best(run.folder / "checkpoints")
        == steps(run.folder / "checkpoints")[min(found, key=lambda step: (sign * found[step], step))]
    )
