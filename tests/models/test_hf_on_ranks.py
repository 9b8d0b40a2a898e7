"""A Hugging Face model on two real ranks: tokenised once, and the same weights as on one rank with whole batches."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import torch
from ranks import on_ranks
from tiny_hf import llama

from trustformers_pl.checkpoint import load
from trustformers_pl.factory import assemble

if TYPE_CHECKING:
    from collections.abc import Callable

pytest.importorskip("transformers")
RECIPE = """\
model: {class_path: trustformers_pl.models.HFCausalLM, init_args: {path: llama}}
data:
  class_path: trustformers_pl.data.TextData
  init_args: {source: texts.csv, packing: documents, context_length: 12, batch_size: 4, val_fraction: 0.2, cache: cache}
trainer: {max_steps: 3, accelerator: cpu, devices: 1, log_every_n_steps: 1}
optimizer: {name: sgd, lr: 0.05}
checkpoint: {every_n_steps: 3}
"""


def trained(folder: str) -> Any:
    return load(f"{folder}/checkpoints/step-00000003")["state_dict"]


def test_two_ranks_train_as_one(write: Callable[..., str]) -> None:
    llama()
    # Texts of uneven lengths, so that ranks have different numbers of valid labels.
    Path("texts.csv").write_text("text\n" + "".join(f"{'word ' * (n % 4)}{n}\n" for n in range(120)))
    recipe = Path(write(RECIPE)).resolve()
    options = ["trainer.devices=2", "data.init_args.batch_size=2", "ddp={}", "trainer.default_root_dir=two"]
    on_ranks(
        2,
        f"import os; os.chdir({str(recipe.parent)!r})\n"
        f"from trustformers_pl import assemble\nassemble('recipe.yaml', {options!r}).fit()",
        seconds=240,
    )
    assert len(list(Path("cache").glob("tokens-*"))) == 1
    assemble(recipe, ["trainer.default_root_dir=one"]).fit()
    one, two = trained("one"), trained("two")
    assert one.keys() == two.keys()
    for name, value in one.items():
        # Source: one rank with the whole batch of both.
        torch.testing.assert_close(two[name], value, rtol=0, atol=1e-6)
