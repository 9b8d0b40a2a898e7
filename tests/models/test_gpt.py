"""GPT: its numbers against torch's own modules and formulas, and its contract with Lightning."""

import math

import lightning
import pytest
import torch
from lightning.fabric.plugins.environments import LightningEnvironment
from torch import nn
from torch.nn import functional as F
from torch.utils.data import DataLoader

from trustformers_pl.models import GPT

torch.set_num_threads(1)


def logits_by_definition(gpt, input_ids):
    """Pre-norm transformer from torch.nn.functional, attention as softmax(QK'/sqrt(d))V (Vaswani et al. 2017, eq. 1),
    rotary positions as complex multiplication (Su et al. 2021, eq. 14), SwiGLU (Shazeer 2020, eq. 6)."""
    weights = gpt.state_dict()
    d_model, n_heads = gpt.hparams["d_model"], gpt.hparams["n_heads"]
    length, d_head = input_ids.shape[1], d_model // n_heads
    powers = 10_000.0 ** (-2 * torch.arange(d_head // 2, dtype=torch.float64) / d_head)
    turns = torch.polar(torch.ones(length, d_head // 2).double(), torch.arange(length).double()[:, None] * powers)

    def heads(x):
        return x.unflatten(-1, (n_heads, d_head)).transpose(1, 2)

    def rotated(x):
        turned = torch.complex(x[..., : d_head // 2], x[..., d_head // 2 :]) * turns
        return torch.cat([turned.real, turned.imag], dim=-1)

    x = weights["embedding.weight"][input_ids]
    future = torch.ones(length, length, dtype=torch.bool).triu(1)
    for layer in range(gpt.hparams["n_layers"]):
        of = {name.removeprefix(f"blocks.{layer}."): value for name, value in weights.items()}
        normed = F.layer_norm(x, (d_model,), of["attention_norm.weight"])
        q, k, v = (heads(normed @ matrix.T) for matrix in of["attention.qkv.weight"].chunk(3))
        scores = rotated(q) @ rotated(k).transpose(-1, -2) / math.sqrt(d_head)
        mixed = scores.masked_fill(future, -math.inf).softmax(-1) @ v
        x = x + mixed.transpose(1, 2).flatten(2) @ of["attention.out.weight"].T
        normed = F.layer_norm(x, (d_model,), of["mlp_norm.weight"])
        gate, up = (normed @ matrix.T for matrix in of["mlp.gate_up.weight"].chunk(2))
        x = x + (gate * gate.sigmoid() * up) @ of["mlp.down.weight"].T
    return F.layer_norm(x, (d_model,), weights["norm.weight"]) @ weights["embedding.weight"].T


def test_logits_follow_from_the_papers_formulas(small_gpt, spread_out, random_batch):
    gpt = spread_out(small_gpt()).double()
    input_ids = random_batch(gpt)["input_ids"]
    # Source: logits_by_definition; the rotation table was rounded to float32, hence 1e-5.
    torch.testing.assert_close(
        gpt({"input_ids": input_ids}), logits_by_definition(gpt, input_ids), rtol=1e-5, atol=1e-5
    )


def test_attention_at_rotation_zero_is_torchs_multihead_attention(small_gpt, spread_out):
    gpt = spread_out(small_gpt())
    attention = gpt.blocks[0].attention
    reference = nn.MultiheadAttention(16, 2, bias=False, batch_first=True)
    reference.in_proj_weight.data = attention.qkv.weight.data
    reference.out_proj.weight.data = attention.out.weight.data
    x = torch.randn(3, 5, 16)
    no_turn = torch.stack([torch.ones(5, 8), torch.zeros(5, 8)])
    # Source: torch.nn.MultiheadAttention with its own causal mask.
    expected = reference(x, x, x, attn_mask=nn.Transformer.generate_square_subsequent_mask(5), need_weights=False)[0]
    torch.testing.assert_close(attention(x, no_turn, None, 0), expected)


def test_the_defaults_have_the_documented_size():
    # 256 d + 4 (4 d^2 + 3 * 344 d + 2 d) + d at d = 128, by hand; 344 is 8/3 of 128 rounded to a multiple of 8.
    assert sum(parameter.numel() for parameter in GPT().parameters()) == 824_448


def test_a_fresh_model_predicts_almost_uniformly(random_batch):
    gpt = GPT()
    batch = random_batch(gpt, length=128)
    loss_sum, count = gpt.loss(gpt(batch), batch)
    # The entropy of 256 equally likely tokens is ln 256 nats.
    assert (loss_sum / count).item() == pytest.approx(math.log(256), rel=0.02)


def test_loss_is_the_sum_over_the_labels_that_count(small_gpt, spread_out, random_batch):
    gpt = spread_out(small_gpt())
    batch = random_batch(gpt)
    batch["labels"][0, 2:] = -100
    loss_sum, count = gpt.loss(gpt(batch), batch)
    # Source: torch's cross_entropy, over (B, V, T).
    expected = F.cross_entropy(gpt(batch).transpose(1, 2), batch["labels"], reduction="sum", ignore_index=-100)
    torch.testing.assert_close(loss_sum, expected)
    assert int(count) == 3 * 8 - 6


def test_loss_of_bfloat16_logits_is_summed_in_float32(small_gpt):
    gpt = small_gpt()
    batch = {"labels": torch.zeros(1, 4096, dtype=torch.int64)}
    loss_sum, _ = gpt.loss(torch.zeros(1, 4096, 2, dtype=torch.bfloat16), batch)
    # 4096 ln 2, which bfloat16 cannot hold to better than 0.4 %.
    assert float(loss_sum) == pytest.approx(4096 * math.log(2), rel=1e-6)


def test_a_later_token_leaves_earlier_logits_alone(small_gpt, spread_out, random_batch):
    gpt = spread_out(small_gpt())
    batch = random_batch(gpt)
    changed = batch["input_ids"].clone()
    changed[:, 5] = (changed[:, 5] + 1) % 11
    before, after = gpt(batch), gpt({"input_ids": changed})
    # By the definition of a causal model.
    torch.testing.assert_close(before[:, :5], after[:, :5], rtol=0, atol=0)
    assert not torch.allclose(before[:, 5], after[:, 5])


def test_tied_embedding_is_one_tensor_stored_once(small_gpt, spread_out, random_batch):
    gpt = spread_out(small_gpt())
    shaped_like_the_vocabulary = [name for name, value in gpt.state_dict().items() if value.shape == (11, 16)]
    assert shaped_like_the_vocabulary == ["embedding.weight"]
    batch = random_batch(gpt)
    batch["input_ids"] %= 10
    gpt(batch)[..., 10].sum().backward()
    # Token 10 is never an input here: its row can have got a gradient through the output alone.
    assert gpt.embedding.weight.grad[10].abs().sum() > 0


def test_hyperparameters_and_state_dict_rebuild_the_model(small_gpt, spread_out, random_batch):
    gpt = spread_out(small_gpt(dropout=0.1)).eval()
    rebuilt = GPT(**gpt.hparams).eval()
    rebuilt.load_state_dict(gpt.state_dict())
    batch = random_batch(gpt)
    assert torch.equal(rebuilt(batch), gpt(batch))


def test_dropout_acts_in_training_only(small_gpt, random_batch):
    gpt = small_gpt(dropout=0.5)
    batch = random_batch(gpt)
    assert not torch.equal(gpt(batch), gpt(batch))
    gpt.eval()
    assert torch.equal(gpt(batch), gpt(batch))


class TrainableGPT(GPT):
    def configure_optimizers(self):
        return torch.optim.AdamW(self.parameters(), lr=1e-2)


def test_a_stock_trainer_trains_it(random_batch):
    torch.manual_seed(0)
    gpt = TrainableGPT(vocab_size=11, d_model=16, n_layers=1, n_heads=2, context_length=8)
    batch = random_batch(gpt, rows=4)
    loader = DataLoader([{name: value[row] for name, value in batch.items()} for row in range(4)], batch_size=4)
    trainer = lightning.Trainer(
        accelerator="cpu", max_epochs=30, plugins=[LightningEnvironment()], logger=False,
        enable_checkpointing=False, enable_progress_bar=False, enable_model_summary=False,
    )  # fmt: skip
    trainer.fit(gpt, loader, loader)
    # ln 11 is what knowing nothing costs; one batch seen 30 times is learnt.
    assert float(trainer.callback_metrics["val_loss"]) < 0.5 * math.log(11)
    loss_sum, count = gpt.loss(gpt(batch), batch)
    assert float(trainer.callback_metrics["val_loss"]) == pytest.approx((loss_sum / count).item(), rel=1e-5)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"n_heads": 3}, "d_model 16 must be a multiple"),
        ({"n_heads": 16}, "d_model 16 must be a multiple"),
        ({"n_layers": 0}, "at least 1"),
        ({"dropout": 1.0}, "dropout 1.0 must be in"),
    ],
)
def test_sizes_that_cannot_be_are_refused(arguments, message, small_gpt):
    with pytest.raises(ValueError, match=message):
        small_gpt(**arguments)


def test_a_sequence_longer_than_the_context_is_refused(small_gpt, random_batch):
    gpt = small_gpt()
    with pytest.raises(ValueError, match="9 positions are more than context_length 8"):
        gpt(random_batch(gpt, length=9))
