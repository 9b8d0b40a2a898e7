"""One `fit` over several tasks: what is trained when, who is told, and that a resume is exact."""

from __future__ import annotations

import csv
import math
from typing import TYPE_CHECKING, Any

import killed
import pytest
import torch
from continual_job import TEN, Digits, Network, recipe
from digits_tasks import tasks
from lightning import Callback, Trainer
from torch.utils.data import ConcatDataset, Subset, TensorDataset

from trustformers_pl.continual import AccuracyMatrix, TaskOrder, Tasks
from trustformers_pl.continual.division import blocks, divided
from trustformers_pl.continual.labels import column
from trustformers_pl.data import resumable_datamodule
from trustformers_pl.errors import DataError, RecipeError, RefusedError
from trustformers_pl.factory import assemble
from trustformers_pl.precision_order import OrderedPrecision
from trustformers_pl.testing.trial import differences, train

if TYPE_CHECKING:
    from pathlib import Path


class Told(Callback):
    """Notes what it is told, and the classes of each step between."""

    def __init__(self) -> None:
        self.events: list[Any] = []

    def on_task_start(self, trainer: Any, module: Any, task: int) -> None:
        self.events.append(("start", task, trainer.global_step))

    def on_task_end(self, trainer: Any, module: Any, task: int) -> None:
        self.events.append(("end", task, trainer.global_step))

    def on_train_batch_start(self, trainer: Any, module: Any, batch: Any, batch_idx: int) -> None:
        seen = sorted(set(batch[1].tolist()))
        if not self.events or self.events[-1] != seen:
            self.events.append(seen)


class Ordinary(Network):
    """A plain training step."""

    def training_step(self, batch: Any, batch_idx: int) -> torch.Tensor:
        return torch.nn.functional.cross_entropy(self(batch), batch[1])

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), 0.02)


def test_each_task_has_its_epochs_and_is_told_of(tmp_path: Path) -> None:
    told = Told()
    trial = train(recipe({"epochs": 2}, every=20), tmp_path, also=[told])
    only = [event for event in told.events if isinstance(event, tuple)]
    steps = only[-1][2]
    assert [event[:2] for event in only] == [(what, t) for t in range(5) for what in ("start", "end")]
    assert trial.run.trainer.global_step == steps
    for number, event in enumerate(told.events):
        if isinstance(event, list):
            task = next(e for e in reversed(told.events[:number]) if isinstance(e, tuple))[1]
            assert set(event) <= set(TEN[task])
    assert trial.evidence["tasks"] == "task 4, 5 ended"


def test_steps_are_optimizer_steps_of_whole_batches(tmp_path: Path) -> None:
    told = Told()
    train(recipe({"steps": 4}, every=20, accumulate={"batches": 2}), tmp_path, also=[told])
    ends = [event[2] for event in told.events if event[0] == "end"]
    assert ends == [4, 8, 12, 16, 20]


@pytest.mark.parametrize("step", [2, 3, 6, 7])
def test_killed_inside_a_task_or_at_its_boundary_it_ends_with_the_same_bits(step: int, tmp_path: Path) -> None:
    """3 steps a task and a checkpoint every two: boundaries are at steps 3, 6, 9, of which only 6 is saved."""
    sections = recipe({"steps": 3}, every=8, checkpoint={"every_n_steps": 2, "keep_last": 50}, ewc={"strength": 30.0})
    whole, resumed = killed.resumed(sections, tmp_path, step)
    (matrix,), (other,) = whole.run.callbacks("AccuracyMatrix"), resumed.run.callbacks("AccuracyMatrix")
    assert matrix.rows == other.rows
    assert len(matrix.rows) == 5
    again = train(sections, tmp_path / "killed")  # its tasks are done
    assert again.run.trainer.global_step == 15
    assert again.state == whole.state


def test_a_schedule_ends_with_the_last_task(tmp_path: Path) -> None:
    """In 2 epochs of each task, each of as many batches as its digits fill (`Digits`): no end in the recipe, no warning."""
    trainer = {"accelerator": "cpu", "devices": 1, "log_every_n_steps": 1}
    trial = train(
        recipe({"epochs": 2}, accumulate={"batches": 2}, trainer=trainer, schedule={"name": "cosine"}, progress={}),
        tmp_path,
    )
    digits = torch.cat([task.y for task in tasks()])[::8]
    steps = sum(2 * math.ceil(math.ceil(int((digits // 2 == task).sum()) / 16) / 2) for task in range(5))
    assert trial.run.trainer.global_step == trial.run.trainer.max_steps == steps
    rows = csv.DictReader((trial.run.folder / "metrics.csv").read_text().splitlines())
    lr = [row["lr"] for row in rows if row["lr"]]
    assert float(lr[0]) == pytest.approx(0.02)
    assert float(lr[-1]) == pytest.approx(0.01 * (1 + math.cos(math.pi * (steps - 1) / steps)))


def test_the_end_of_a_task_is_said(tmp_path: Path, capsys: Any) -> None:
    train(recipe({"steps": 2}, every=20, progress={}), tmp_path)
    lines = [line for line in capsys.readouterr().out.splitlines() if line.startswith("task")]
    assert len(lines) == 5
    assert lines[0].startswith("task 0 ended  average accuracy 0.")
    assert "  forgetting " in lines[4]


def test_in_a_stock_trainer(tmp_path: Path) -> None:
    order, told, matrix = TaskOrder("class", number=5, epochs=1), Told(), AccuracyMatrix()
    data = resumable_datamodule(Digits(every=20), seed=0, phases={"order": [order]})
    module = Ordinary()
    trainer = Trainer(
        accelerator="cpu",
        devices=1,
        max_epochs=50,
        callbacks=[Tasks(), matrix, told],
        plugins=[OrderedPrecision()],
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        default_root_dir=tmp_path,
    )
    trainer.fit(module, datamodule=data)
    assert [event[1] for event in told.events if event[0] == "end"] == [0, 1, 2, 3, 4]
    assert len(matrix.rows) == 5
    assert float(trainer.callback_metrics["average_accuracy"]) == matrix.metrics["average_accuracy"]


def test_the_matrix_is_what_the_model_gets_right(tmp_path: Path) -> None:
    """Its last row against the final model on the same data, outputs of other tasks masked by hand."""
    run = train(recipe({"epochs": 3}, every=4), tmp_path).run
    (matrix,) = run.callbacks("AccuracyMatrix")
    x, y = next(iter(torch.utils.data.DataLoader(Digits(every=4).val_dataloader().dataset, batch_size=10_000)))
    run.module.eval()
    for task, classes in enumerate(TEN):
        of = (y[:, None] == torch.tensor(classes)).any(1)
        guesses = torch.tensor(classes)[run.module([x[of]])[:, classes].argmax(1)]
        assert matrix.rows[-1][task] == pytest.approx((guesses == y[of]).double().mean().item())
    assert matrix.rows[-1][4] > 0.7
    text = (run.folder / "report.md").read_text()
    assert "| after task 4 |" in text
    assert "Average accuracy" in text
    assert 'class="number heat h' in (run.folder / "report.html").read_text()
    assert "average_accuracy" in (run.folder / "metrics.csv").read_text().splitlines()[0]


def test_a_single_task_changes_nothing(tmp_path: Path) -> None:
    one = recipe(every=20, trainer={**recipe()["trainer"], "max_epochs": 2})
    plain = {name: section for name, section in one.items() if name != "tasks"}
    with_one = one | {"tasks": {"scenario": "domain", "number": 1, "epochs": 9}}
    before, after = train(plain, tmp_path / "plain"), train(with_one, tmp_path / "one")
    assert not differences(before.state, after.state, only=before.state)


def test_boundaries_are_found_in_the_loss(tmp_path: Path) -> None:
    """Two tasks of 60 steps: one boundary, some steps after the sixtieth, and the samples between are the first's."""
    told = Told()
    section = {"scenario": "class", "classes": [[0, 1], [2, 3, 4, 5, 6, 7, 8, 9]], "steps": 60, "boundaries": "detect"}
    sections = recipe(section, every=4, trainer={**recipe()["trainer"], "max_epochs": 2})
    trial = train(sections, tmp_path, also=[told])
    (end,) = [event[2] for event in told.events if event[0] == "end"]
    assert 60 < end <= 70
    (found,) = trial.run.callbacks("Tasks")
    labels = torch.tensor(column(found.loader.dataset))[found.indices(0)]
    of_the_first = [label for label in column(found.loader.dataset) if label < 2]
    assert int((labels < 2).sum()) == len(of_the_first)
    assert int((labels >= 2).sum()) <= 16 * (end - 60)


def data(labels: list[int]) -> TensorDataset:
    return TensorDataset(torch.zeros(len(labels), 1), torch.tensor(labels))


def test_classes_fall_into_equal_parts() -> None:
    division = divided(data([3, 1, 0, 2, 7]), number=2)
    assert [division.classes(task) for task in range(2)] == [[0, 1, 2], [3, 7]]
    assert division.of_samples(data([3, 1, 0, 2, 7]), strict=True).tolist() == [1, 0, 0, 0, 1]


def test_domains_are_sources_blocks_or_values_of_a_field() -> None:
    both = ConcatDataset([data([0, 1]), data([1, 0, 1])])
    assert blocks(both, divided(both, "domain").count).tolist() == [0, 0, 1, 1, 1]
    assert blocks(data([0] * 5), 2).tolist() == [0, 0, 0, 1, 1]
    rows = [{"x": 1, "from": "b"}, {"x": 2, "from": "a"}, {"x": 3, "from": "b"}]
    division = divided(rows, "domain", field="from")
    assert division.of_samples(rows, strict=True).tolist() == [1, 0, 1]
    assert column(Subset(rows, [1, 2]), "x") == [2, 3]


@pytest.mark.parametrize(
    ("labels", "options", "message"),
    [
        ([0, 1, 7], {"classes": [[0], [1]]}, "class 7 .sample 2. is in no task; add it"),
        ([0, 1], {"classes": [[0], [1], [5]]}, "task 2 .labels .5.. has no sample"),
        ([0, 1], {"number": 3}, "3 tasks need as many values of 'labels', and there are 2"),
        ([0, 1], {"scenario": "domain", "number": 3}, "task 1? ?.*has no sample"),
        ([0, 1], {"field": "colour"}, "has no 'colour'"),
    ],
)
def test_bad_data_in_one_line(labels: list[int], options: dict[str, Any], message: str) -> None:
    with pytest.raises(DataError, match=message) as error:
        TaskOrder(**options).prepare(data(labels), lambda: 1)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("section", "message"),
    [
        ({"classes": [[0, 1], [1, 2]]}, "class 1 is in task 0 and 1 of classes"),
        ({"classes": [[0], []]}, "task 1 of classes has no class"),
        ({"number": 2}, "classes and number both"),
        ({"steps": 2, "epochs": 2}, "steps must be at least 1, and takes the place of epochs"),
        ({"boundaries": "detect"}, "detected boundaries are not known then"),
        ({"detection": {"treshold": 1.0}}, "detection has no 'treshold'"),
    ],
)
def test_bad_sections_in_one_line(section: dict[str, Any], message: str) -> None:
    with pytest.raises(RecipeError, match=message) as error:
        assemble(recipe(section))
    assert "\n" not in str(error.value)


def test_a_task_of_less_than_a_batch_that_is_dropped(tmp_path: Path) -> None:
    small = recipe(every=40, data={"class_path": "continual_job.Digits", "init_args": {"every": 40, "drop_last": True}})
    small["tasks"] = {"classes": [[0, 1, 2, 3, 4, 5, 6, 7], [8], [9]]}
    with pytest.raises(DataError, match="task 1 has fewer samples than a batch"):
        train(small, tmp_path)


def test_a_task_with_fewer_samples_than_ranks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A rank without a sample would have nothing to take importances, answers or exemplars from."""
    monkeypatch.setattr("trustformers_pl.continual.tasks.data_ranks", lambda trainer: (0, 10))
    small = recipe({"classes": [[0, 1, 2, 3, 4, 5, 6, 7], [8, 9]]}, every=100)
    with pytest.raises(DataError, match=r"task 1 has \d samples for 10 ranks; give more, or use fewer ranks"):
        train(small, tmp_path)


def test_a_training_that_ends_before_its_tasks_says_so(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    train(recipe({"epochs": 2}, every=40, trainer={**recipe()["trainer"], "max_epochs": 9}), tmp_path)
    (line,) = [one for one in caplog.messages if one.startswith("tasks:")]
    assert line == "tasks: 5 tasks of 2 epochs take 10, and trainer.max_epochs=9 ends the training before; raise it"


def test_tasks_without_an_order_in_the_data(tmp_path: Path) -> None:
    trainer = Trainer(accelerator="cpu", callbacks=[Tasks()], logger=False, enable_checkpointing=False)
    with pytest.raises(RefusedError, match="Tasks follows a TaskOrder"):
        trainer.fit(Ordinary(), datamodule=Digits())
