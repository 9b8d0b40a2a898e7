"""The Hugging Face examples: fetched as they say, trained, exported, and loaded by transformers alone."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import torch
from shown import ROOT

from trustformers_pl.factory import assemble

if TYPE_CHECKING:
    from collections.abc import Callable

transformers = pytest.importorskip("transformers")
HF, SENTIMENT = ROOT / "examples" / "hf", ROOT / "examples" / "sentiment"


def fetched(*models: str) -> None:
    """What the recipes' comments say, in a copy of the examples."""
    for folder in (HF, SENTIMENT):
        target = Path("examples") / folder.name
        target.mkdir(parents=True)
        for file in folder.glob("[!.]*.*"):
            shutil.copy(file, target)
    calls = [["examples/hf/fetch.py", *models]]
    if not Path("examples/sentiment/movies.csv").exists():
        calls.append(["examples/sentiment/fetch.py"])
    for call in calls:
        done = subprocess.run([sys.executable, *call], capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("name", ["minilm", "smollm2"])
def test_explain_shows_them(name: str, command: Callable[..., tuple[int, str, str]]) -> None:
    code, out, _ = command("explain", str(HF / f"{name}.yaml"))
    assert code == 0
    assert "trustformers_pl.models.HF" in out


@pytest.mark.slow
def test_minilm_beats_a_bag_of_words(command: Callable[..., tuple[int, str, str]]) -> None:
    """About four minutes on one core. Hashed n-grams with a linear model reach 0.737; 0.830 was measured."""
    fetched("minilm")
    recipe = "examples/hf/minilm.yaml"
    assert command("fit", recipe)[0] == 0
    _, out, _ = command("test", recipe)
    figures = dict(line.split() for line in out.splitlines() if line.startswith("test_"))
    assert float(figures["test_accuracy"]) > 0.78
    assert command("export", recipe, "--out=given")[0] == 0
    classify = transformers.pipeline("text-classification", model="given")
    # Source: what the sentences say.
    assert [answer["label"] for answer in classify(["a dull, lifeless mess", "a moving, beautifully acted film"])] == [
        "negative",
        "positive",
    ]


def held_out_loss(run: Any, module: Any) -> float:
    """Nats a token over the first eight held-out batches."""
    run.datamodule.setup("validate")
    total, count = torch.zeros(()), 0
    with torch.no_grad():
        for batch, _ in zip(run.datamodule.val_dataloader(), range(8), strict=False):
            loss_sum, number = module.loss(module(batch), batch)
            total, count = total + loss_sum, count + int(number)
    return float(total / count)


@pytest.mark.slow
def test_smollm2_learns_and_is_given_away() -> None:
    """About five minutes on one core."""
    fetched("smollm2")
    run = assemble("examples/hf/smollm2.yaml", ["trainer.max_steps=20"])
    before = held_out_loss(run, run.module.eval())
    run.module.train()
    run.fit()
    after = held_out_loss(run, run.module.eval())
    assert after < before - 0.3
    run.export("given")
    tokenizer = transformers.AutoTokenizer.from_pretrained("given")
    theirs = transformers.AutoModelForCausalLM.from_pretrained("given")
    inputs = tokenizer("a film that", return_tensors="pt")
    assert torch.equal(theirs(**inputs).logits, run.module({"input_ids": inputs["input_ids"]}))
    assert len(tokenizer.decode(theirs.generate(**inputs, max_new_tokens=8)[0])) > len("a film that")
