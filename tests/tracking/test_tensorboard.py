"""What was written, read back by TensorBoard's own EventAccumulator and compared with the table of the same run."""

from __future__ import annotations

import csv
import importlib.metadata
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.plugins.hparams.plugin_data_pb2 import HParamsPluginData
from tiny import Composable, Data

from trustformers_pl.errors import RefusedError
from trustformers_pl.factory import assemble
from trustformers_pl.testing.on_ranks import train_and_die
from trustformers_pl.testing.ranks import Ranks
from trustformers_pl.testing.subject import Subject
from trustformers_pl.tracking import TensorBoardLogger

if TYPE_CHECKING:
    from pathlib import Path

Points = dict[str, list[tuple[int, float]]]


def events(folder: Path) -> EventAccumulator:
    read = EventAccumulator(str(folder), size_guidance={"scalars": 0})
    read.Reload()
    return read


def drawn(folder: Path) -> Points:
    read = events(folder)
    points = {tag: [(e.step, e.value) for e in read.Scalars(tag)] for tag in read.Tags()["scalars"]}
    # Lightning logs the epoch with each of a step's rows, which the table merges.
    return {**points, "epoch": list(dict.fromkeys(points["epoch"]))}


def tabled(path: Path) -> Points:
    """As an event file holds it, in single precision."""
    with path.open(newline="") as file:
        rows = list(csv.DictReader(file))
    names = [name for name in rows[0] if name != "step"]
    return {n: [(int(r["step"]), float(np.float32(r[n]))) for r in rows if r[n]] for n in names}


def subject() -> Any:
    return Subject("tensorboard", {}).on()


def test_it_says_what_the_table_says(tmp_path: Path) -> None:
    run = assemble({**subject(), "trainer": {**subject()["trainer"], "default_root_dir": str(tmp_path / "run")}})
    run.fit()
    table = tabled(tmp_path / "run" / "metrics.csv")
    assert {"train_loss", "val_loss", "lr"} <= table.keys()
    assert drawn(tmp_path / "run" / "tensorboard") == table


def test_a_killed_and_resumed_run_is_drawn_once(tmp_path: Path) -> None:
    Ranks().run_until_killed(1, train_and_die, subject(), str(tmp_path), 6)
    first = drawn(tmp_path / "tensorboard")
    assert max(step for step, _ in first["train_loss"]) >= 4  # beyond the checkpoint of step 4
    run = assemble({**subject(), "trainer": {**subject()["trainer"], "default_root_dir": str(tmp_path)}})
    run.fit()
    assert len(list((tmp_path / "tensorboard").iterdir())) == 2
    both, table = drawn(tmp_path / "tensorboard"), tabled(tmp_path / "metrics.csv")
    assert both == table


def test_a_run_killed_before_its_first_checkpoint_is_drawn_once(tmp_path: Path) -> None:
    """It begins anew, and so does what is drawn: what the first attempt logged is of no run."""
    unsaved = {**subject(), "checkpoint": {"every_n_steps": 100}}
    Ranks().run_until_killed(1, train_and_die, unsaved, str(tmp_path), 4)
    assert drawn(tmp_path / "tensorboard")["train_loss"]
    assemble({**unsaved, "trainer": {**unsaved["trainer"], "default_root_dir": str(tmp_path)}}).fit()
    both, table = drawn(tmp_path / "tensorboard"), tabled(tmp_path / "metrics.csv")
    assert both == table


def test_the_recipe_is_the_hyperparameters(tmp_path: Path) -> None:
    run = assemble({**subject(), "seed": 7, "trainer": {**subject()["trainer"], "default_root_dir": str(tmp_path)}})
    run.fit()
    content = events(tmp_path / "tensorboard").summary_metadata["_hparams_/session_start_info"].plugin_data.content
    found = HParamsPluginData.FromString(content).session_start_info.hparams
    assert found["seed"].number_value == 7
    assert found["model.class_path"].string_value == subject()["model"]["class_path"]
    assert not list((tmp_path / "tensorboard").glob("*.yaml"))


def test_in_a_stock_trainer(make_trainer: Any, tmp_path: Path) -> None:
    class Logs(Composable):
        def training_step(self, batch: Any, batch_idx: int) -> Any:
            self.log("mine", float(self.global_step) ** 2)
            return super().training_step(batch, batch_idx)

        def configure_optimizers(self) -> Any:
            import torch

            return torch.optim.SGD(self.parameters(), lr=0.01)

    trainer = make_trainer(logger=TensorBoardLogger(tmp_path / "events"), max_steps=4, log_every_n_steps=1)
    trainer.fit(Logs(), datamodule=Data())
    assert drawn(tmp_path / "events")["mine"] == [(0, 0.0), (1, 1.0), (2, 4.0), (3, 9.0)]


def test_without_the_library_it_is_refused_with_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(name: str) -> None:
        raise importlib.metadata.PackageNotFoundError(name)

    monkeypatch.setattr("trustformers_pl.extras.distribution", missing)
    with pytest.raises(
        RefusedError, match=r"tensorboard is not installed; pip install 'trustformers-pl\[tensorboard\]'"
    ):
        assemble(subject())


def test_files_of_one_second_are_read_in_their_order(tmp_path: Path) -> None:
    """Two in one second would be read in the order of their processes' numbers: the later one waits."""
    first = TensorBoardLogger(tmp_path)
    for step in range(4):
        first.log_metrics({"a": 1.0, "epoch": 0.0}, step)
    first.finalize("killed")
    second = TensorBoardLogger(tmp_path)
    second.truncate_after(2)
    second.log_metrics({"a": 2.0, "epoch": 0.0}, 2)
    second.finalize("success")
    assert drawn(tmp_path)["a"] == [(0, 1.0), (1, 1.0), (2, 2.0)]
    seconds = [path.name.split(".")[3] for path in tmp_path.iterdir()]
    assert len(set(seconds)) == 2
