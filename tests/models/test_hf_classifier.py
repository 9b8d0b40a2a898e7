"""HFSequenceClassifier against transformers' own model and loss, and trained on a table through its tokenizer."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import lightning
import pytest
import torch
from lightning.fabric.plugins.environments import LightningEnvironment
from tiny_hf import TEXTS, bert, ragged, transformers
from torch.nn import functional as F

from trustformers_pl.data import LabelledText, load_tokenizer
from trustformers_pl.errors import RefusedError
from trustformers_pl.factory import assemble
from trustformers_pl.models import HFSequenceClassifier

if TYPE_CHECKING:
    from collections.abc import Callable

pytest.importorskip("transformers")
torch.set_num_threads(1)


def labelled() -> dict[str, torch.Tensor]:
    return {**ragged(40), "labels": torch.tensor([0, 2, 1, 2])}


def stock(folder: str) -> Any:
    return transformers().AutoModelForSequenceClassification.from_pretrained(folder)


@pytest.fixture
def model() -> HFSequenceClassifier:
    return HFSequenceClassifier(path=bert(), num_labels=3).double().eval()


def test_loss_and_accuracy_are_transformers_own(model: HFSequenceClassifier) -> None:
    batch = labelled()
    theirs = stock("bert").double().eval()
    inputs = {**batch, "attention_mask": batch["attention_mask"].long()}
    # Source: transformers' mean cross-entropy, from its own labels argument.
    expected = theirs(**inputs)
    logits = model(batch)
    loss_sum, count = model.loss(logits, batch)
    torch.testing.assert_close(loss_sum / count, expected.loss, rtol=0, atol=1e-6)
    assert int(count) == int(model.loss_count(batch)) == 4
    right = (expected.logits.argmax(1) == batch["labels"]).sum()
    assert [int(n) for n in model.measures(logits, batch)["accuracy"]] == [int(right), 4]
    batch["labels"][1] = -100
    weights = torch.tensor([1.0, 5.0, 0.0, 2.0]).double()
    each = F.cross_entropy(expected.logits, labelled()["labels"], reduction="none")
    torch.testing.assert_close(model.loss(logits, batch, weights)[0], each[0] + 2 * each[3], rtol=0, atol=1e-6)


def test_padding_changes_nothing(model: HFSequenceClassifier) -> None:
    batch = labelled()
    together = model(batch)
    for row, length in enumerate(batch["attention_mask"].sum(1).tolist()):
        # Source: the sequence alone and without a mask, in float64.
        alone = model({"input_ids": batch["input_ids"][row : row + 1, :length]})
        torch.testing.assert_close(together[row : row + 1], alone, rtol=0, atol=1e-10)


def test_padding_changes_nothing_for_a_decoder_that_reads_its_last_token() -> None:
    torch.manual_seed(0)
    hf = transformers()
    config = hf.GPT2Config(vocab_size=40, n_embd=16, n_layer=2, n_head=2, n_positions=32, num_labels=3)
    hf.GPT2ForSequenceClassification(config).save_pretrained("gpt2")
    model, batch = HFSequenceClassifier(path="gpt2", num_labels=3).double().eval(), labelled()
    together = model(batch)
    for row, length in enumerate(batch["attention_mask"].sum(1).tolist()):
        alone = model({"input_ids": batch["input_ids"][row : row + 1, :length]})
        torch.testing.assert_close(together[row : row + 1], alone, rtol=0, atol=1e-10)


@pytest.mark.parametrize("sizes", [[1, 3], [2, 2], [3, 1]])
def test_any_split_of_a_batch_gives_the_same_gradient(model: HFSequenceClassifier, sizes: list[int]) -> None:
    def gradients(parts: list[dict[str, torch.Tensor]]) -> list[torch.Tensor]:
        model.zero_grad()
        for part in parts:
            (model.loss(model(part), part)[0] / 4).backward()
        return [parameter.grad.clone() for parameter in model.parameters() if parameter.grad is not None]

    batch = labelled()
    pieces = zip(*(value.split(sizes) for value in batch.values()), strict=True)
    split = gradients([dict(zip(batch, piece, strict=True)) for piece in pieces])
    for found, expected in zip(split, gradients([batch]), strict=True):
        torch.testing.assert_close(found, expected, rtol=0, atol=1e-10)


def test_an_encoder_gets_a_head_that_follows_from_the_seed() -> None:
    bert("encoder", head=False)
    heads = []
    for seed in (0, 0, 1):
        torch.manual_seed(seed)
        model = HFSequenceClassifier(path="encoder", num_labels=5)
        torch.rand(7 * len(heads))  # whatever is drawn before the weights are read
        before = torch.get_rng_state()
        heads.append(model.state_dict()["model.classifier.weight"])
        assert torch.equal(before, torch.get_rng_state())
    assert heads[0].shape == (5, 16)
    assert torch.equal(heads[0], heads[1])
    assert not torch.equal(heads[0], heads[2])
    # By transformers: BERT's linear layers start with the standard deviation `initializer_range`, here 0.4.
    assert heads[0].std().item() == pytest.approx(0.4, rel=0.3)


def test_its_tokenizer_makes_what_transformers_makes() -> None:
    theirs = transformers().AutoTokenizer.from_pretrained(bert())
    ours = load_tokenizer("bert")
    for text in TEXTS:
        # Source: transformers' own call, with special tokens and truncation.
        assert ours.encode_whole(text, 6) == theirs(text, truncation=True, max_length=6)["input_ids"]
        assert ours.encode(text) == theirs(text, add_special_tokens=False)["input_ids"]
        assert ours.decode(theirs(text)["input_ids"]) == text
    assert (ours.padding, ours.vocab_size) == (theirs.pad_token_id, len(theirs))


def table() -> str:
    """Fifty different texts, whose last word tells the class."""
    pairs = [f"{first} {second}" for first in TEXTS[:5] for second in TEXTS[:5]]
    rows = [(f"{text} {word}", label) for text in pairs for word, label in (("no", "bad"), ("good", "fine"))]
    Path("t.jsonl").write_text("".join(json.dumps({"text": t, "label": c}) + "\n" for t, c in rows))
    return "t.jsonl"


RECIPE = """\
model: {class_path: trustformers_pl.models.HFSequenceClassifier, init_args: {path: encoder, num_labels: 2}}
data:
  class_path: trustformers_pl.data.LabelledText
  init_args: {file: t.jsonl, tokenizer: encoder, max_length: 16, batch_size: 8, val_fraction: 0.3, test_fraction: 0.3}
trainer: {max_steps: 12, accelerator: cpu}
optimizer: {name: adamw, lr: 0.01}
checkpoint: {}
"""


def test_trained_tested_exported_and_loaded_by_transformers_alone(
    write: Callable[..., str], command: Callable[..., tuple[int, str, str]]
) -> None:
    bert("encoder", head=False)
    table()
    recipe = write(RECIPE)
    assert command("fit", recipe)[0] == 0
    assert command("test", recipe)[1].startswith("test_accuracy  ")
    assert command("predict", recipe)[0] == 0
    rows = [json.loads(line) for line in Path("runs/recipe/predictions.jsonl").read_text().splitlines()]
    assert command("export", recipe, "--out=given")[0] == 0
    hf = transformers()
    tokenizer, model = hf.AutoTokenizer.from_pretrained("given"), stock("given").eval()
    texts = LabelledText(file="t.jsonl", val_fraction=0.3, test_fraction=0.3)._split("test").texts
    inputs = tokenizer(texts, truncation=True, max_length=16, padding=True, return_tensors="pt")
    # Source: transformers alone, tokenizer and model from the folder that was written.
    probabilities = model(**inputs).logits.softmax(1)
    torch.testing.assert_close(torch.tensor([row["probabilities"] for row in rows]), probabilities, rtol=0, atol=1e-5)
    assert [row["label"] for row in rows] == [model.config.id2label[int(n)] for n in probabilities.argmax(1)]
    assert model.config.id2label == {0: "bad", 1: "fine"}


def test_other_numbers_of_classes_are_refused(write: Callable[..., str]) -> None:
    bert("encoder", head=False)
    table()
    with pytest.raises(RefusedError, match=r"model: num_labels is 4, and the data have 2 classes \(bad, fine\); set"):
        assemble(write(RECIPE), ["model.init_args.num_labels=4"]).fit()
    with pytest.raises(ValueError, match="num_labels 1 must be at least 2"):
        HFSequenceClassifier(path="encoder", num_labels=1)


class Trainable(HFSequenceClassifier):
    def configure_optimizers(self) -> Any:
        return torch.optim.AdamW(self.parameters(), lr=5e-3)


def test_a_stock_trainer_trains_it() -> None:
    bert("encoder", head=False, initializer_range=0.1)
    data = LabelledText(file=table(), tokenizer="encoder", max_length=16, batch_size=8)
    trainer = lightning.Trainer(
        accelerator="cpu", max_epochs=20, plugins=[LightningEnvironment()], logger=False,
        enable_checkpointing=False, enable_progress_bar=False, enable_model_summary=False,
    )  # fmt: skip
    torch.manual_seed(0)
    model = Trainable(path="encoder", num_labels=2)
    trainer.fit(model, datamodule=data)
    model.eval()
    with torch.no_grad():
        right = [
            model(batch).argmax(1) == batch["labels"] for batch in (*data.train_dataloader(), *data.val_dataloader())
        ]
    assert torch.cat(right).double().mean() > 0.8  # chance: 0.5
    # By hand, over the last loader's batches.
    assert float(trainer.callback_metrics["val_accuracy"]) == pytest.approx(float(right[-1].double().mean()))
