from __future__ import annotations

import csv
import math
import subprocess
import sys
from typing import TYPE_CHECKING, Any

import pytest
from lightning.pytorch import loggers
from lightning.pytorch.callbacks import ModelCheckpoint
from tiny_text import TinyLM, TinyText

from trustformers_pl.errors import TrustformersError
from trustformers_pl.tracking import CSVLogger, Metrics

if TYPE_CHECKING:
    from pathlib import Path


def rows(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def logged(path: Path, steps: range | list[int], **metrics: float) -> CSVLogger:
    logger = CSVLogger(path.parent, name=path.name)
    for step in steps:
        logger.log_metrics({"loss": step / 3, "epoch": 0, **metrics}, step)
    return logger


def test_holds_what_lightnings_own_csv_logger_holds(make_trainer: Any, tmp_path: Path) -> None:
    stock = loggers.CSVLogger(tmp_path / "stock", name=None, version="")
    trainer = make_trainer(
        logger=[CSVLogger(folder=tmp_path / "ours"), stock], callbacks=[Metrics()], log_every_n_steps=5
    )
    trainer.fit(TinyLM(), datamodule=TinyText(batches=10))
    ours, theirs = rows(tmp_path / "ours/metrics.csv"), rows(tmp_path / "stock/metrics.csv")
    # Lightning's documentation: the first of two epochs of ten steps, logged every five, gives steps 4 and 9.
    assert [row["step"] for row in ours] == ["4", "9", "14", "19"]
    # The expected cells come from Lightning's own logger, which was given the same calls.
    expected: dict[str, dict[str, float]] = {}
    for row in theirs:
        expected.setdefault(row["step"], {}).update({k: float(v) for k, v in row.items() if v})
    assert [{k: float(v) for k, v in row.items() if v} for row in ours] == list(expected.values())


def test_numbers_are_read_back_bit_for_bit(tmp_path: Path) -> None:
    # Doubles that fewer than 17 digits do not tell apart, the smallest one, and what is no number.
    values = {"a": 0.1 + 0.2, "b": 1 / 3, "c": 5e-324, "d": math.inf, "e": -0.0, "f": math.nan}
    CSVLogger(tmp_path).log_metrics(values, 0)
    (row,) = rows(tmp_path / "metrics.csv")
    assert [float(row[name]).hex() for name in values] == [value.hex() for value in values.values()]


def test_one_row_a_step_and_new_columns_at_any_time(tmp_path: Path) -> None:
    logger = logged(tmp_path / "metrics.csv", [9, 19])
    logger.log_metrics({'val "loss", mean': 1.5, "epoch": 0}, 19)
    logger.log_metrics({"loss": 2.0, "epoch": 1}, 29)
    # The text is what RFC 4180 asks for: quotes doubled inside quotes, empty cells where nothing was measured.
    assert (tmp_path / "metrics.csv").read_text() == (
        'step,epoch,loss,"val ""loss"", mean"\n9,0,3.0,\n19,0,6.333333333333333,1.5\n29,1,2.0,\n'
    )


def test_a_contradicting_value_loses_nothing(tmp_path: Path) -> None:
    logger = logged(tmp_path / "metrics.csv", [3, 3])
    logger.log_metrics({"loss": 7.0}, 3)
    assert [(row["step"], row["loss"]) for row in rows(tmp_path / "metrics.csv")] == [("3", "1.0"), ("3", "7.0")]


@pytest.mark.parametrize("tail", ["7,0,2.3", "7,0", "7,0,2.3333333333333335,\u00e9"])
def test_a_row_torn_by_a_kill_is_dropped(tmp_path: Path, tail: str) -> None:
    path = tmp_path / "metrics.csv"
    logged(path, range(3)).finalize("")
    whole = path.read_text()
    path.write_bytes(path.read_bytes() + tail.encode()[:-1])
    logged(path, [3])
    assert path.read_text() == whole + "3,0,1.0\n"


def test_a_row_torn_while_it_was_widened_is_dropped(tmp_path: Path) -> None:
    path = tmp_path / "metrics.csv"
    logged(path, range(3)).finalize("")
    whole = path.read_text()
    path.write_text(whole + "3,0,1.0,\n")
    logged(path, [4])
    assert path.read_text() == whole + "4,0,1.3333333333333333\n"


KILLED = """
import os, signal, sys
from trustformers_pl.tracking import CSVLogger
logger = CSVLogger(sys.argv[1])
for step in range(7):
    logger.log_metrics({"loss": step / 3}, step)
logger.log_metrics({"val_loss": 0.5}, 6)
os.kill(os.getpid(), signal.SIGKILL)
"""


def test_a_kill_loses_no_row(tmp_path: Path) -> None:
    assert subprocess.run([sys.executable, "-c", KILLED, tmp_path], check=False).returncode == -9
    found = rows(tmp_path / "metrics.csv")
    assert [float(row["loss"]) for row in found] == [step / 3 for step in range(7)]
    assert found[-1]["val_loss"] == "0.5"


FULL = """
import resource, sys
from trustformers_pl.errors import TrustformersError
from trustformers_pl.tracking import CSVLogger
resource.setrlimit(resource.RLIMIT_FSIZE, (100, 100))
logger = CSVLogger(sys.argv[1])
try:
    for step in range(100):
        logger.log_metrics({"loss": step / 3}, step)
except TrustformersError as error:
    print(error)
"""


def test_a_full_disk_is_one_clear_line_and_the_file_can_be_gone_on_with(tmp_path: Path) -> None:
    # A limit on the file's size stands in for a full disk: the system takes a part of a row, then refuses.
    out = subprocess.run([sys.executable, "-c", FULL, tmp_path], check=True, capture_output=True, text=True).stdout
    assert out.count("\n") == 1
    assert out.startswith(f"{tmp_path / 'metrics.csv'}: cannot be written: File too large; ")
    logged(tmp_path / "metrics.csv", [50])
    steps = [int(row["step"]) for row in rows(tmp_path / "metrics.csv")]
    assert steps == [*range(len(steps) - 1), 50]
    assert len(steps) > 3


def test_a_folder_that_is_a_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(TrustformersError, match=r"file/metrics.csv: cannot be written: .*; free space or name"):
        CSVLogger(tmp_path / "file").log_metrics({"loss": 1.0}, 0)


def test_a_csv_of_something_else_is_refused_and_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "metrics.csv"
    path.write_text("name,age\nAda,36\n")
    with pytest.raises(TrustformersError, match="first column is 'name', not 'step'"):
        CSVLogger(tmp_path).log_metrics({"loss": 1.0}, 0)
    assert path.read_text() == "name,age\nAda,36\n"


@pytest.mark.parametrize("kept", [0, 1, 5, 9])
def test_truncate_after_keeps_the_rows_of_completed_steps(tmp_path: Path, kept: int) -> None:
    path = tmp_path / "metrics.csv"
    logger = logged(path, range(6))
    logger.truncate_after(kept)
    logger.log_metrics({"loss": 0.5}, kept)
    # Lightning gives the k-th optimizer step the number k - 1: `kept` completed steps have the rows 0 ... kept - 1.
    assert [int(row["step"]) for row in rows(path)] == [*range(min(kept, 6)), kept]


def test_a_resumed_run_writes_the_file_of_an_uninterrupted_one(make_trainer: Any, tmp_path: Path) -> None:
    def fit(folder: Path, max_steps: int, resume: str | None = None) -> ModelCheckpoint:
        checkpoint = ModelCheckpoint(folder, filename="{step}", save_top_k=-1, every_n_train_steps=5)
        trainer = make_trainer(
            logger=CSVLogger(folder),
            callbacks=[Metrics(tokens_per_second=False), checkpoint],
            enable_checkpointing=True,
            max_steps=max_steps,
            log_every_n_steps=1,
        )
        trainer.fit(TinyLM(), datamodule=TinyText(batches=5), ckpt_path=resume)
        return checkpoint

    fit(tmp_path / "whole", 20)
    # Stopped inside the third epoch, after three rows that the checkpoint at step 10 does not know.
    fit(tmp_path / "cut", 13)
    assert rows(tmp_path / "cut/metrics.csv")[-1]["step"] == "12"
    fit(tmp_path / "cut", 20, resume=str(tmp_path / "cut/step=10.ckpt"))
    assert (tmp_path / "cut/metrics.csv").read_text() == (tmp_path / "whole/metrics.csv").read_text()


def test_stock_callbacks_find_the_folder(make_trainer: Any, tmp_path: Path) -> None:
    trainer = make_trainer(
        logger=CSVLogger(tmp_path / "run"), callbacks=[ModelCheckpoint()], enable_checkpointing=True, max_steps=2
    )
    trainer.fit(TinyLM(), datamodule=TinyText(batches=2))
    assert trainer.log_dir == str(tmp_path / "run")
    assert [path.name for path in (tmp_path / "run").rglob("*.ckpt")] == ["epoch=0-step=2.ckpt"]
