"""Which checkpoints are taken and stay: the last, the best by a validation metric, and by the clock."""

from __future__ import annotations

import csv
import json
import logging
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import tiny
import torch
from lightning import Callback, Trainer
from ranks import on_ranks
from test_exact_resume import RECIPE, tree

from trustformers_pl import assemble
from trustformers_pl.checkpoint import Checkpoint, best, load
from trustformers_pl.checkpoint.folder import step_name, steps, write_state
from trustformers_pl.checkpoint.keeping import looks_whole, prune
from trustformers_pl.checkpoint.ranking import Ranking
from trustformers_pl.checkpoint.wall_clock import WallClock
from trustformers_pl.errors import CheckpointError, RecipeError, RefusedError

Write = Callable[..., str]
FOLDER = Path("runs/recipe/checkpoints")
BEST = RECIPE.replace(
    "{every_n_steps: 1, keep_last: 100}", "{every_n_steps: 10, keep_last: 1, best: {monitor: val_loss, keep: 2}}"
)


def make(folder: Path, *numbers: int) -> None:
    for number in numbers:
        write_state(folder / step_name(number), {"w": torch.ones(3), "step": number})


def told(path: Path) -> dict[str, Any]:
    return json.loads((path / "manifest.json").read_text())["metadata"]  # type: ignore[no-any-return]


def validated() -> dict[int, float]:
    with Path("runs/recipe/metrics.csv").open(newline="") as file:
        # Lightning logs under the number of the step that was last, from 0; a checkpoint counts steps done.
        return {int(row["step"]) + 1: float(row["val_loss"]) for row in csv.DictReader(file) if row["val_loss"]}


def test_the_best_stay_beside_the_last(write: Write) -> None:
    assemble(write(BEST)).fit()
    logged = validated()  # what the validations said, by another way than the manifests
    assert len(logged) == 13  # every third of 40 steps
    expected = sorted(logged, key=lambda step: (logged[step], step))[:2]
    assert set(steps(FOLDER)) == {*expected, 40}
    assert best(FOLDER) == FOLDER / step_name(expected[0])
    for step in expected:
        assert told(FOLDER / step_name(step))["monitored"]["val_loss"] == pytest.approx(logged[step], rel=1e-6)
    assert told(FOLDER / step_name(40))["best"]["step"] == expected[0]


def test_the_worst_with_the_other_mode(write: Write) -> None:
    assemble(write(BEST), ["checkpoint.best.mode=max", "checkpoint.best.keep=1"]).fit()
    logged = validated()
    assert best(FOLDER) == FOLDER / step_name(max(logged, key=lambda step: (logged[step], -step)))


class EndsAt(Callback):
    def __init__(self, step: int) -> None:
        self.step = step

    def on_train_batch_end(self, trainer: Trainer, *rest: Any) -> None:
        if trainer.global_step == self.step:
            raise RuntimeError(f"ends at {self.step}")


def test_a_resumed_run_keeps_the_same_ones(write: Write) -> None:
    recipe = write(BEST)
    assemble(recipe).fit()
    shutil.move("runs", "whole")
    cut = assemble(recipe)
    cut.trainer.callbacks.append(EndsAt(17))  # type: ignore[attr-defined]
    with pytest.raises(RuntimeError, match="17"):
        cut.fit()
    assert max(steps(FOLDER)) == 15
    assemble(recipe).fit()
    whole = Path("whole/recipe/checkpoints")
    assert list(steps(FOLDER)) == list(steps(whole))
    for path in steps(whole).values():
        assert tree(FOLDER / path.name) == tree(path)  # manifests too: there is no clock in them


def test_a_metric_that_is_not_there_is_refused_before_training(write: Write) -> None:
    run = assemble(write(BEST), ["checkpoint.best.monitor=val_acc"])
    with pytest.raises(RefusedError, match=r"validations log no val_acc; they log val_loss"):
        run.fit()
    assert run.trainer.global_step == 0


def test_the_best_without_validations_are_refused(write: Write) -> None:
    with pytest.raises(RefusedError, match="best needs validations"):
        assemble(write(BEST), ["trainer.limit_val_batches=0"]).fit()


@pytest.mark.parametrize("wrong", ["best.keep=0", "every_n_minutes=0", "keep_last=0", "every_n_steps=0"])
def test_settings_without_meaning_are_refused(write: Write, wrong: str) -> None:
    with pytest.raises(RecipeError, match=wrong.partition("=")[0].rpartition(".")[2]):
        assemble(write(BEST), [f"checkpoint.{wrong}"])


def test_nan_is_never_the_best_and_of_equals_the_first_stays() -> None:
    ranking = Ranking(keep=2)
    values = [float("nan"), 2.0, float("inf"), 2.0, 1.0, float("-inf")]
    assert [ranking.offer(step, value) for step, value in enumerate(values)] == [False, True, True, True, True, True]
    assert ranking.best == [(5, float("-inf")), (4, 1.0)]
    other = Ranking(monitor="val_acc", mode="max")
    other.load_state(ranking.state())
    assert other.best == []  # of another metric


def test_only_whole_ones_count_when_older_ones_go(tmp_path: Path) -> None:
    make(tmp_path, 1, 2, 3, 4, 5)
    os.truncate(tmp_path / step_name(4) / "tensors.safetensors", 9)
    assert not looks_whole(tmp_path / step_name(4))
    prune(tmp_path, 5, keep_last=2)
    assert list(steps(tmp_path)) == [3, 4, 5]  # 4 would have been the second of the two


def test_the_last_whole_one_is_never_removed(tmp_path: Path) -> None:
    make(tmp_path, 1, 2)
    (tmp_path / step_name(2) / "state.json").unlink()
    assert prune(tmp_path, 2, keep_last=1) == []
    assert list(steps(tmp_path)) == [1, 2]


def test_damaged_ones_of_a_later_step_do_not_push_out_what_was_just_written(tmp_path: Path) -> None:
    make(tmp_path, 10, 30, 40)
    raw = bytearray((tmp_path / step_name(40) / "tensors.safetensors").read_bytes())
    raw[-1] ^= 1  # its size is right: only its hash is wrong, so the run resumed from 30
    (tmp_path / step_name(40) / "tensors.safetensors").write_bytes(raw)
    make(tmp_path, 35)
    prune(tmp_path, 35, keep_last=1)
    assert list(steps(tmp_path)) == [35, 40]


def test_what_cannot_be_removed_stays_and_is_named(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    make(tmp_path, 1, 2)

    def refuse(path: Path) -> None:
        raise CheckpointError(f"{path}: not removed: Permission denied")

    monkeypatch.setattr("trustformers_pl.checkpoint.keeping.remove", refuse)
    with caplog.at_level(logging.WARNING):
        assert prune(tmp_path, 2, keep_last=1) == []
    assert "an old checkpoint stays: " in caplog.text
    assert "step-00000001: not removed: Permission denied" in caplog.text


def test_by_the_clock_alone(write: Write) -> None:
    by_clock = RECIPE.replace("{every_n_steps: 1,", "{every_n_steps: null, every_n_minutes: 0.0000001,")
    assemble(write(by_clock)).fit()
    assert len(steps(FOLDER)) == 40  # each step takes longer than 6 microseconds
    shutil.rmtree("runs")
    assemble(write(by_clock), ["checkpoint.every_n_minutes=1000"]).fit()
    assert list(steps(FOLDER)) == [40]


def test_the_clock_of_one_rank_decides_for_all() -> None:
    printed = on_ranks(
        2,
        """
        import time, torch.distributed as dist
        from types import SimpleNamespace
        from trustformers_pl.checkpoint.wall_clock import WallClock

        def broadcast(value):
            global questions
            questions += 1
            box = [value]
            dist.broadcast_object_list(box)
            return box[0]

        dist.init_process_group("gloo")
        questions, saved = 0, []
        trainer = SimpleNamespace(world_size=2, strategy=SimpleNamespace(broadcast=broadcast))
        clock = WallClock(0.4 / 60 if dist.get_rank() == 0 else 1000)
        clock.restart(0)
        for step in range(1, 201):
            time.sleep(0.005)
            if clock.due(trainer, step):
                saved.append(step)
                clock.restart(step)
        print(saved, questions)
        dist.destroy_process_group()
        """,
    )
    assert printed[0] == printed[1]
    saved, questions = printed[0].rsplit("]", 1)
    assert 1 <= len(saved.split(",")) <= 3  # a second and more, every 0.4 s
    assert int(questions) < 60  # of 200 steps


def test_a_clock_of_one_process_asks_nobody() -> None:
    clock = WallClock(1e-9)
    assert clock.due(object.__new__(_Alone), 1)  # type: ignore[arg-type]


class _Alone:
    world_size = 1


def test_manifests_tell_of_the_run_and_a_resume_says_what_differs(
    write: Write, caplog: pytest.LogCaptureFixture
) -> None:
    recipe = write(RECIPE)
    assemble(recipe).fit()
    metadata = told(FOLDER / step_name(40))
    assert (metadata["global_step"], metadata["world_size"], metadata["threads"]) == (40, 1, torch.get_num_threads())
    assert metadata["versions"]["torch"] == torch.__version__
    assert len(metadata["recipe"]) == 64
    assert any(package.startswith("trustformers-pl ") for package in metadata["packages"])
    shutil.rmtree(FOLDER / step_name(40))
    torch.set_num_threads(2)
    try:
        with caplog.at_level(logging.WARNING):
            assemble(recipe).fit()
    finally:
        torch.set_num_threads(1)
    assert "step-00000039 was written with threads 1, now 2: the resumed run will not be the same bit for bit" in (
        caplog.text
    )
    assert load(FOLDER / step_name(40))["global_step"] == 40


LOADED = BEST.replace("keep: 2}", "keep: 2, mode: max, load_at_end: true}")


def weights(module: torch.nn.Module) -> list[torch.Tensor]:
    return [value.detach().clone() for value in module.state_dict().values()]


def equal(one: list[torch.Tensor], other: list[torch.Tensor]) -> bool:
    return all(torch.equal(a, b) for a, b in zip(one, other, strict=True))


def test_a_run_ends_with_its_best_weights_and_goes_on_from_its_last(write: Write) -> None:
    """The worst is taken for the best, so that it is surely not the last; a run without the key says what is expected."""
    recipe = write(LOADED)
    plain = assemble(recipe, ["checkpoint.best.load_at_end=false", "trainer.default_root_dir=plain"])
    plain.fit()
    run = assemble(recipe)
    run.fit()
    found = best(FOLDER)
    assert found is not None
    assert found.name != step_name(40)
    assert equal(weights(run.module), list(load(found)["state_dict"].values()))
    assert equal(weights(plain.module), list(load(FOLDER / step_name(40))["state_dict"].values()))
    for evaluated in (run, assemble(recipe)):  # in a process that has not trained, too
        assert evaluated.validate()["val_loss"] == pytest.approx(told(found)["monitored"]["val_loss"], rel=1e-6)
        assert evaluated.load_weights() == str(found)
    assert plain.validate() != run.validate()
    assert str(run.ckpt_path()).endswith(step_name(40))
    for folder in ("runs/recipe", "plain"):
        assemble(recipe, ["trainer.max_steps=44", f"trainer.default_root_dir={folder}"]).fit(resume="force")
    assert (
        tree(FOLDER / step_name(44))["tensors.safetensors"]
        == tree(Path("plain/checkpoints") / step_name(44))["tensors.safetensors"]
    )


def test_the_best_weights_on_two_ranks() -> None:
    job = f"""
        import sys
        sys.path[:0] = [{str(Path(tiny.__file__).parent)!r}]
        from trustformers_pl import assemble
        from trustformers_pl.checkpoint import best, load

        made = assemble({{
            "model": {{"class_path": "tiny.Composable"}}, "data": {{"class_path": "tiny.Data"}},
            "trainer": {{"max_steps": 8, "accelerator": "cpu", "devices": 2, "val_check_interval": 2}},
            "optimizer": {{"name": "sgd", "lr": 0.1}}, "ddp": {{}},
            "checkpoint": {{"best": {{"monitor": "val_loss", "mode": "max", "load_at_end": True}}}}}})
        made.fit()
        path = best(made.folder / "checkpoints")
        expected = [value.tolist() for value in load(path)["state_dict"].values()]
        print(path.name, expected == [value.tolist() for value in made.module.state_dict().values()])
    """
    assert on_ranks(2, job) == ["step-00000002 True\n"] * 2


def test_the_best_weights_in_a_stock_trainer() -> None:
    class Own(tiny.Composable):
        def configure_optimizers(self) -> Any:
            return torch.optim.SGD(self.parameters(), lr=0.1)

    saver = Checkpoint(folder="c", every_n_steps=4, best={"monitor": "val_loss", "mode": "max"}, load_best=True)
    trainer = Trainer(
        max_steps=16,
        val_check_interval=2,
        accelerator="cpu",
        logger=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        callbacks=[saver],
    )
    torch.manual_seed(0)
    module = Own()
    trainer.fit(module, tiny.Data())
    found = best("c")
    assert found is not None
    assert found.name != step_name(16)  # the worst is of the beginning
    assert equal(weights(module), list(load(found)["state_dict"].values()))
