"""The recipes of the everyday sections on real text: a few steps of a small model each."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest
import tiny
from shown import ROOT
from torch.utils.data import DataLoader

from trustformers_pl.data import ByteText
from trustformers_pl.factory import assemble

if TYPE_CHECKING:
    from pathlib import Path

EXAMPLES = ROOT / "examples"
SMALL = ["model.init_args.d_model=16", "model.init_args.n_layers=1", "data.init_args.batch_size=4"]
SMALL += ["trainer.max_steps=30", "trainer.val_check_interval=30", "trainer.limit_val_batches=2"]
SMALL += ["samples.max_new_tokens=5", "schedule.warmup_steps=2", "csv.file=metrics.csv"]


def column(folder: Path, name: str) -> list[float]:
    rows = [line.split(",") for line in (folder / "metrics.csv").read_text(encoding="utf-8").splitlines()]
    index = rows[0].index(name)
    return [float(row[index]) for row in rows[1:] if row[index]]


@pytest.mark.parametrize(
    ("recipe", "evidence"),
    [
        ("precision/bf16.yaml", {"precision": "bf16 at O1"}),
        ("precision/fp16.yaml", {"precision": "fp16 at O2, loss scale"}),
        ("faults/robust.yaml", {"finite": "gone back 0 times", "spikes": "found"}),
        ("faults/out_of_memory.yaml", {"out_of_memory": "whole batches"}),
        ("faults/quarantine.yaml", {"quarantine": "set 0 samples aside"}),
        ("profiling/profile.yaml", {"profile": "operators recorded"}),
        (
            "optim/everyday.yaml",
            {
                "accumulate": "60 batches in 30 steps",
                "ema": "30 updates",
                "finite": "skipped 0 steps",
                "early_stopping": "best val_loss",
                "clip": "1.0 at most",
            },
        ),
    ],
)
def test_it_learns_and_each_section_takes_part(recipe: str, evidence: dict[str, str]) -> None:
    more = ["trainer.val_check_interval=60"] if "everyday" in recipe else []  # batches
    run = assemble(EXAMPLES / recipe, [*SMALL, *more])
    run.fit()
    found = run.probe()
    for section, expected in evidence.items():
        assert expected in (found[section] or "")
    losses = column(run.folder, "train_loss")
    assert losses[-1] < losses[0]


class Torn(ByteText):
    """Of every hundred samples one cannot be read."""

    def train_dataloader(self) -> DataLoader[Any]:
        loader = super().train_dataloader()
        return DataLoader(
            tiny.Raising(loader.dataset, range(0, len(loader.dataset), 100)),
            loader.batch_size,
            shuffle=True,
            num_workers=1,
        )


def test_samples_that_cannot_be_read_are_listed_beside_the_run() -> None:
    run = assemble(EXAMPLES / "faults/quarantine.yaml", [*SMALL, "data.class_path=test_everyday_recipes.Torn"])
    run.fit()
    rows = [json.loads(line) for line in (run.folder / "quarantine.jsonl").read_text("utf-8").splitlines()]
    assert rows
    assert all(row["index"] % 100 == 0 and row["cause"].startswith("OSError: damaged") for row in rows)
    assert f"set {len(rows)} samples aside" in (run.probe()["quarantine"] or "")
    losses = column(run.folder, "train_loss")
    assert losses[-1] < losses[0]
