"""The sentiment example: its data as fetched from the package index, and the recipe for a few steps."""

from __future__ import annotations

import csv
import json
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING

from shown import ROOT

if TYPE_CHECKING:
    from collections.abc import Callable

EXAMPLE = ROOT / "examples" / "sentiment"
SMALL = ["--model.init_args.d_model=16", "--model.init_args.n_layers=1", "--trainer.max_steps=4"]
SMALL += ["--trainer.val_check_interval=4", "--data.init_args.file=movies.csv", "--data.init_args.max_length=40"]


def test_it_is_fetched_trained_measured_and_asked(command: Callable[..., tuple[int, str, str]]) -> None:
    """One download. Source of the numbers: 10,605 rated sentences, 5,326 below and 37 at zero (Hutto & Gilbert 2014)."""
    done = subprocess.run([sys.executable, str(EXAMPLE / "fetch.py"), "."], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    with Path("movies.csv").open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    assert Counter(row["label"] for row in rows) == {"positive": 10_605 - 5_326 - 37, "negative": 5_326}
    assert all((float(row["rating"]) > 0) == (row["label"] == "positive") for row in rows)
    recipe = str(EXAMPLE / "sentiment.yaml")
    assert command("fit", recipe, *SMALL)[0] == 0
    code, out, _ = command("test", recipe, *SMALL)
    assert code == 0
    assert [line.split()[0] for line in out.splitlines()] == ["test_accuracy", "test_loss"]
    code, out, _ = command("predict", recipe, *SMALL)
    lines = Path("runs/sentiment/predictions.jsonl").read_text(encoding="utf-8").splitlines()
    assert out == f"{len(lines)} predictions: runs/sentiment/predictions.jsonl\n"
    assert {json.loads(line)["label"] for line in lines} <= {"positive", "negative"}
    assert 0.08 < len(lines) / len(rows) < 0.12  # a tenth is held out for testing
