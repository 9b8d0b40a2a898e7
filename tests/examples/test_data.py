"""The byte-pair example for a few steps: its vocabulary, its packing and its samples."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from shown import ROOT

from trustformers_pl.factory import assemble

if TYPE_CHECKING:
    from collections.abc import Callable

RECIPE = ROOT / "examples" / "data" / "bpe.yaml"
SMALL = ["model.init_args.d_model=16", "model.init_args.n_layers=1", "data.init_args.batch_size=4"]
SMALL += ["trainer.max_steps=20", "trainer.val_check_interval=20", "trainer.limit_val_batches=2"]
SMALL += ["samples.max_new_tokens=5", "schedule.warmup_steps=2", "data.init_args.cache=cache"]
SMALL += ["model.init_args.vocab_size=400", "data.init_args.bpe_size=400", "data.init_args.pattern=json/*.py"]


def test_bpe_trains_on_packed_documents() -> None:
    pytest.importorskip("tokenizers")
    run = assemble(RECIPE, SMALL)
    run.fit()
    rows = (run.folder / "metrics.csv").read_text(encoding="utf-8").splitlines()
    loss = rows[0].split(",").index("train_loss")
    losses = [float(value) for row in rows[1:] if (value := row.split(",")[loss])]
    assert losses[-1] < losses[0]
    assert "val_bits_per_byte" in rows[0]
    samples = (run.folder / "samples.jsonl").read_text(encoding="utf-8").splitlines()
    assert [json.loads(line)["prompt"] for line in samples] == ["def ", "class "]
    assert len(list(Path("cache").glob("bpe-*/tokenizer.json"))) == 1


def test_explain_shows_it(command: Callable[..., tuple[int, str, str]]) -> None:
    code, out, _ = command("explain", str(RECIPE))
    assert code == 0
    assert "data.init_args.bpe_size" in out
