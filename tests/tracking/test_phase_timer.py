"""The timer against sleeps of known length, in a stock Trainer; and across a resume."""

from __future__ import annotations

import itertools
import json
import time
from typing import TYPE_CHECKING, Any

import torch
from tiny import Data, Plain

from trustformers_pl.checkpoint import Checkpoint, resume_path
from trustformers_pl.tracking import PhaseTimer

if TYPE_CHECKING:
    from pathlib import Path


class Slow(Plain):
    """Sleeps 20 ms in each forward pass of training, 10 ms in each optimizer step and 30 ms in each validation batch."""

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        time.sleep(0.02)
        return super().training_step(batch, batch_idx)

    def optimizer_step(self, *args: Any, **kwargs: Any) -> None:
        super().optimizer_step(*args, **kwargs)
        time.sleep(0.01)

    def validation_step(self, batch: Any, batch_idx: int) -> None:
        time.sleep(0.03)


class SlowData(Data):
    def train_dataloader(self) -> Any:
        loader = super().train_dataloader()
        return torch.utils.data.DataLoader(loader.dataset, 4, collate_fn=slow_collate)


def slow_collate(rows: list[Any]) -> Any:
    time.sleep(0.005)
    return torch.utils.data.default_collate(rows)


def lines(folder: Path) -> list[dict[str, float]]:
    return [json.loads(line) for line in (folder / "times.jsonl").read_text().splitlines()]


def test_the_seconds_are_where_they_were_spent(make_trainer: Any, tmp_path: Path) -> None:
    trainer = make_trainer(callbacks=[PhaseTimer()], max_steps=8, limit_val_batches=2)
    trainer.fit(Slow(), datamodule=SlowData())
    last = lines(tmp_path)[-1]
    assert last["step"] == 8
    for phase, least in (("compute", 0.16), ("optimizer", 0.08), ("data", 0.04), ("validation", 0.06)):
        assert last[phase] >= least, phase
    assert sum(last[phase] for phase in ("compute", "optimizer", "data", "validation", "checkpoint")) <= last["seconds"]
    assert vars(trainer).get("save_checkpoint") is None  # the Trainer's own again


def test_checkpoints_are_timed_and_a_resume_goes_on_at_theirs(make_trainer: Any, tmp_path: Path) -> None:
    def callbacks() -> list[Any]:
        return [PhaseTimer(every_seconds=0.0), Checkpoint(every_n_steps=3)]

    trainer = make_trainer(callbacks=callbacks(), max_steps=5, enable_checkpointing=True)
    trainer.fit(Slow(), datamodule=SlowData())
    first = lines(tmp_path)
    assert first[-1]["checkpoint"] > 0
    again = make_trainer(callbacks=callbacks(), max_steps=8, enable_checkpointing=True)
    third = [line for line in first if line["step"] <= 3]
    folder = tmp_path / "checkpoints"
    again.fit(Slow(), datamodule=SlowData(), ckpt_path=str(folder / "step-00000003"))
    assert resume_path(str(folder)) == str(folder / "step-00000008")
    after = lines(tmp_path)
    assert after[: len(third)] == third
    assert [line["step"] for line in after] == sorted(line["step"] for line in after)
    assert all(b["seconds"] >= a["seconds"] for a, b in itertools.pairwise(after))
    assert after[-1]["compute"] > third[-1]["compute"] + 0.1  # five more forward passes of 20 ms


def test_a_line_torn_by_a_kill_is_dropped(make_trainer: Any, tmp_path: Path) -> None:
    (tmp_path / "times.jsonl").write_text('{"step": 0, "sec')
    make_trainer(callbacks=[PhaseTimer()], max_steps=2).fit(Slow(), datamodule=SlowData())
    assert [line["step"] for line in lines(tmp_path)][-1] == 2
