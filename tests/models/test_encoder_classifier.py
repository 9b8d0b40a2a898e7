"""EncoderClassifier: its attention against torch's, what padding and order may change, and its contract with Lightning."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import TYPE_CHECKING, Any

import lightning
import pytest
import torch
from lightning.fabric.plugins.environments import LightningEnvironment
from torch import nn
from torch.nn import functional as F
from torch.utils.data import DataLoader

from trustformers_pl.models import EncoderClassifier
from trustformers_pl.models.block import Block, rotation_table

if TYPE_CHECKING:
    from collections.abc import Callable

torch.set_num_threads(1)
FORMS = [
    {"pooling": pooling, "positions": positions} for pooling in ("mean", "cls") for positions in ("rotary", "learned")
]


def encoder(**arguments: Any) -> EncoderClassifier:
    torch.manual_seed(0)
    sizes = {"n_classes": 3, "vocab_size": 11, "d_model": 16, "n_layers": 2, "n_heads": 2, "context_length": 12}
    return EncoderClassifier(**(sizes | arguments))


@pytest.fixture
def spread(spread_out: Callable[..., Any]) -> Callable[..., EncoderClassifier]:
    return lambda **arguments: spread_out(encoder(**arguments)).double().eval()


def ragged(padding: int = 0, width: int = 12, lengths: tuple[int, ...] = (5, 12, 1, 7)) -> dict[str, torch.Tensor]:
    """Sequences of these lengths, padded with some token."""
    generator = torch.Generator().manual_seed(1)
    tokens = torch.randint(11, (len(lengths), width), generator=generator)
    mask = torch.arange(width) < torch.tensor(lengths)[:, None]
    return {
        "input_ids": tokens.where(mask, torch.tensor(padding)),
        "attention_mask": mask,
        "labels": torch.arange(len(lengths)) % 3,
    }


@pytest.mark.parametrize("form", FORMS)
def test_padding_changes_nothing(form: dict[str, str], spread: Callable[..., EncoderClassifier]) -> None:
    model, batch = spread(**form), ragged()
    together = model(batch)
    for row, length in enumerate(batch["attention_mask"].sum(1).tolist()):
        # Source: the same sequence alone, unpadded and without a mask, in float64.
        alone = model({"input_ids": batch["input_ids"][row : row + 1, :length]})
        torch.testing.assert_close(together[row : row + 1], alone, rtol=0, atol=1e-12)
    assert torch.equal(model(ragged(padding=7)), together)
    as_numbers = {**batch, "attention_mask": batch["attention_mask"].long()}  # the form of Hugging Face tokenizers
    assert torch.equal(model(as_numbers), together)
    assert not torch.allclose(model({"input_ids": batch["input_ids"]})[2], together[2])


def test_attention_is_torchs_multihead_attention_with_a_padding_mask() -> None:
    torch.manual_seed(0)
    attention = Block(16, 2, 0.0).attention.double()
    reference = nn.MultiheadAttention(16, 2, bias=False, batch_first=True).double()
    reference.in_proj_weight.data = attention.qkv.weight.data
    reference.out_proj.weight.data = attention.out.weight.data
    x, tokens = torch.randn(4, 12, 16).double(), ragged()["attention_mask"]
    no_turn = rotation_table(12, 8, theta=None)
    # Source: torch.nn.MultiheadAttention with its key_padding_mask.
    expected = reference(x, x, x, key_padding_mask=~tokens, need_weights=False)[0]
    found = attention(x, no_turn, None, 0, tokens[:, None, None, :])
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-12)


class Vaswani(nn.Module):
    """A GELU layer in the place of SwiGLU, to compare a whole block with torch's encoder layer."""

    def __init__(self) -> None:
        super().__init__()
        self.up, self.down = nn.Linear(16, 24, bias=False), nn.Linear(24, 16, bias=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.down(F.gelu(self.up(x)))


def test_a_block_is_torchs_pre_norm_encoder_layer() -> None:
    torch.manual_seed(0)
    block, layer = (
        Block(16, 2, 0.0),
        nn.TransformerEncoderLayer(16, 2, 24, 0.0, "gelu", batch_first=True, norm_first=True, bias=False),
    )
    block.mlp = mlp = Vaswani()  # type: ignore[assignment]
    copies = {
        "self_attn.in_proj_weight": block.attention.qkv.weight, "self_attn.out_proj.weight": block.attention.out.weight,
        "linear1.weight": mlp.up.weight, "linear2.weight": mlp.down.weight,
        "norm1.weight": block.attention_norm.weight, "norm2.weight": block.mlp_norm.weight,
    }  # fmt: skip
    layer.load_state_dict(copies)
    block, layer = block.double(), layer.double()
    x, tokens = torch.randn(4, 12, 16).double(), ragged()["attention_mask"]
    # Source: torch.nn.TransformerEncoderLayer, pre-norm, with its src_key_padding_mask.
    expected = layer(x, src_key_padding_mask=~tokens)
    found = block(x, rotation_table(12, 8, theta=None), visible=tokens[:, None, None, :])
    torch.testing.assert_close(found[tokens], expected[tokens], rtol=0, atol=1e-12)


@pytest.mark.parametrize("form", FORMS)
def test_a_fresh_model_finds_all_classes_about_equally_likely(form: dict[str, str]) -> None:
    torch.manual_seed(0)
    model = EncoderClassifier(n_classes=5, **form)  # type: ignore[arg-type]
    batch = {"input_ids": torch.randint(256, (16, 200)), "labels": torch.arange(16) % 5}
    loss_sum, count = model.loss(model(batch), batch)
    # The entropy of five equally likely classes is ln 5 nats.
    assert (loss_sum / count).item() == pytest.approx(math.log(5), rel=0.05)


def test_every_position_sees_every_other(spread: Callable[..., EncoderClassifier]) -> None:
    model = spread(pooling="cls")
    input_ids = ragged()["input_ids"][1:2]
    gradient = torch.autograd.functional.jacobian(
        lambda x: model._encoded(x, torch.ones(1, 13, dtype=torch.bool)), torch.randn(1, 13, 16).double()
    )
    # By definition of bidirectional attention: the first state depends on the last input, and the last on the first.
    assert gradient[0, 0, :, 0, 12].abs().max() > 0
    assert gradient[0, 12, :, 0, 0].abs().max() > 0
    assert not torch.allclose(model({"input_ids": input_ids}), model({"input_ids": input_ids.flip(1)}))


def test_without_positions_the_order_of_tokens_does_not_matter(spread: Callable[..., EncoderClassifier]) -> None:
    model = spread(positions="learned", n_layers=2)
    model.position_embedding.weight.data.zero_()  # type: ignore[union-attr]
    input_ids = ragged()["input_ids"][1:2]
    # Attention and pooling are functions of sets (Vaswani et al. 2017, section 3.5: hence positions).
    torch.testing.assert_close(
        model({"input_ids": input_ids}), model({"input_ids": input_ids.flip(1)}), rtol=0, atol=1e-12
    )


@pytest.mark.parametrize("form", FORMS)
def test_the_order_of_samples_does_not_matter(form: dict[str, str], spread: Callable[..., EncoderClassifier]) -> None:
    model, batch = spread(**form), ragged()
    order = torch.tensor([2, 0, 3, 1])
    shuffled = {name: value[order] for name, value in batch.items()}
    torch.testing.assert_close(model(shuffled), model(batch)[order], rtol=0, atol=1e-12)


def test_loss_is_torchs_cross_entropy_weighted_by_sample(spread: Callable[..., EncoderClassifier]) -> None:
    model, batch = spread(), ragged()
    batch["labels"][1] = -100
    logits = model(batch)
    loss_sum, count = model.loss(logits, batch)
    torch.testing.assert_close(loss_sum, F.cross_entropy(logits, batch["labels"], reduction="sum", ignore_index=-100))
    assert int(count) == 3
    weights = torch.tensor([1.0, 5.0, 0.0, 2.0]).double()
    each = F.cross_entropy(logits, batch["labels"].clamp(min=0), reduction="none")
    torch.testing.assert_close(model.loss(logits, batch, weights)[0], each[0] + 2 * each[3])
    right = (logits.argmax(1) == batch["labels"])[[0, 2, 3]].sum()
    assert [int(n) for n in model.measures(logits, batch)["accuracy"]] == [int(right), 3]


def test_predictions_are_the_softmax_and_its_largest(spread: Callable[..., EncoderClassifier]) -> None:
    model, batch = spread(), ragged()
    found = model.predict_step(batch)
    torch.testing.assert_close(found["probabilities"], torch.softmax(model(batch), 1))
    assert found["label"] == model(batch).argmax(1).tolist()


def test_hyperparameters_and_state_dict_rebuild_the_model(spread: Callable[..., EncoderClassifier]) -> None:
    model = spread(pooling="cls", positions="learned")
    rebuilt = EncoderClassifier(**model.hparams).double().eval()
    rebuilt.load_state_dict(model.state_dict())
    assert torch.equal(rebuilt(ragged()), model(ragged()))


def test_the_defaults_have_the_documented_size() -> None:
    # 256 d + 4 (4 d^2 + 3 * 344 d + 2 d) + d + 2 d + 2 at d = 128, by hand: GPT's blocks and a head of two classes.
    assert sum(p.numel() for p in EncoderClassifier(n_classes=2).parameters()) == 824_448 + 258


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"n_heads": 3}, "d_model 16 must be a multiple"),
        ({"n_classes": 1}, "n_classes at least 2"),
        ({"pooling": "max"}, "pooling 'max' must be mean or cls"),
        ({"positions": "none"}, "positions 'none' rotary or learned"),
    ],
)
def test_arguments_that_cannot_be_are_refused(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        encoder(**arguments)


def test_a_sequence_longer_than_the_context_is_refused() -> None:
    encoder(context_length=12)(ragged())
    with pytest.raises(ValueError, match="12 tokens are more than context_length 11"):
        encoder(context_length=11)(ragged())


class Trainable(EncoderClassifier):
    def configure_optimizers(self) -> Any:
        return torch.optim.AdamW(self.parameters(), lr=1e-2)


def test_a_stock_trainer_trains_and_measures_it() -> None:
    """Whether there is more of token 1 or of token 2; accuracy against a count by hand over all batches."""
    torch.manual_seed(0)
    input_ids = torch.randint(1, 3, (64, 9))
    labels = ((input_ids == 1).sum(1) > 4).long()
    samples = [{"input_ids": tokens, "labels": label} for tokens, label in zip(input_ids, labels, strict=True)]
    model = Trainable(n_classes=2, vocab_size=3, d_model=16, n_layers=1, n_heads=2, context_length=9)
    trainer = lightning.Trainer(
        accelerator="cpu", max_epochs=15, plugins=[LightningEnvironment()], logger=False,
        enable_checkpointing=False, enable_progress_bar=False, enable_model_summary=False,
    )  # fmt: skip
    trainer.fit(model, DataLoader(samples, batch_size=16), DataLoader(samples, batch_size=24))
    model.eval()
    right = (model({"input_ids": input_ids}).argmax(1) == labels).double().mean().item()
    assert float(trainer.callback_metrics["val_accuracy"]) == pytest.approx(right)  # batches of 24, 24 and 16
    assert right > 0.9


def test_predictions_are_named_and_other_numbers_of_classes_refused(
    write: Callable[..., str], command: Callable[..., tuple[int, str, str]]
) -> None:
    words = [("good", "yes"), ("bad", "no"), ("fine", "yes"), ("awful", "no")] * 20
    Path("t.jsonl").write_text(
        "".join(json.dumps({"text": f"{w} {n}", "label": c}) + "\n" for n, (w, c) in enumerate(words))
    )
    recipe = write("""\
        model:
          class_path: trustformers_pl.models.EncoderClassifier
          init_args: {n_classes: 2, d_model: 16, n_layers: 1, n_heads: 2, context_length: 16}
        data: {class_path: trustformers_pl.data.LabelledText, init_args: {file: t.jsonl, max_length: 16, batch_size: 8}}
        trainer: {max_steps: 2, accelerator: cpu}
        optimizer: {name: adamw}
        checkpoint: {}
    """)
    assert command("fit", recipe)[0] == 0
    assert command("test", recipe)[1].startswith("test_accuracy  ")
    assert command("predict", recipe)[0] == 0
    rows = [json.loads(line) for line in Path("runs/recipe/predictions.jsonl").read_text().splitlines()]
    for row in rows:
        assert row["label"] == ["no", "yes"][row["probabilities"].index(max(row["probabilities"]))]
    code, _, err = command("fit", recipe, "--model.init_args.n_classes=3", "--resume=never")
    assert code == 2
    assert err == (
        "error: model: n_classes is 3, and the data have 2 classes (no, yes); set model.init_args.n_classes=2\n"
    )
