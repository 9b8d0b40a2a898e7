"""A small transformer encoder that puts sequences into classes."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Literal

import torch
from lightning import LightningModule
from torch import Tensor, nn
from torch.nn import functional as F

from trustformers_pl.models.block import Block, rotation_table
from trustformers_pl.models.classification import Classification
from trustformers_pl.models.pooling import cls_pooling, mean_pooling

if TYPE_CHECKING:
    from collections.abc import Mapping


class EncoderClassifier(Classification, LightningModule):
    """Bidirectional transformer: the blocks of `GPT` without the causal mask, pooling, and a linear head.

    A batch is a mapping with `input_ids` (B, T) int64, `attention_mask` (B, T), true or 1 where there is a token and
    not padding (left out: everywhere), and `labels` (B,) int64 in [0, n_classes), -100 to be ignored. What stands at
    padded positions has no influence. Matrices start as in `GPT`, the head from a normal distribution of standard
    deviation 0.02, so that a new model finds all classes about equally likely. The defaults make 0.82 million
    parameters. Evaluations log `val_accuracy` and `test_accuracy`. No optimizer is configured here.

    Args:
        n_classes: Number of classes C.
        vocab_size: Number of tokens; 256 for bytes.
        d_model: Width of the residual stream.
        n_layers: Number of blocks.
        n_heads: Attention heads; d_model / n_heads must be an even whole number.
        context_length: Most tokens a sequence may have.
        dropout: Probability of dropping attention weights, block outputs and embeddings.
        pooling: `mean` over the tokens, or `cls`: a learned vector in front of them (Devlin et al. 2019, section 3).
        positions: `rotary` (Su et al. 2021), or `learned`: a vector for each position, added to the embedding.

    Raises:
        ValueError: An argument is out of range, or the heads do not divide d_model.
    """

    def __init__(
        self,
        *,
        n_classes: int,
        vocab_size: int = 256,
        d_model: int = 128,
        n_layers: int = 4,
        n_heads: int = 4,
        context_length: int = 256,
        dropout: float = 0.0,
        pooling: Literal["mean", "cls"] = "mean",
        positions: Literal["rotary", "learned"] = "rotary",
    ) -> None:
        super().__init__()
        if min(vocab_size, d_model, n_layers, n_heads, context_length) < 1 or n_classes < 2:
            raise ValueError(
                "vocab_size, d_model, n_layers, n_heads and context_length must be at least 1, n_classes at least 2"
            )
        if pooling not in ("mean", "cls") or positions not in ("rotary", "learned"):
            raise ValueError(f"pooling {pooling!r} must be mean or cls, positions {positions!r} rotary or learned")
        self.save_hyperparameters()
        self.n_classes, self.context_length = n_classes, context_length
        self.embedding = nn.Embedding(vocab_size, d_model)
        self.position_embedding = nn.Embedding(context_length, d_model) if positions == "learned" else None
        self.cls = nn.Parameter(torch.empty(1, 1, d_model)) if pooling == "cls" else None
        self.dropout = nn.Dropout(dropout)
        self.blocks = nn.ModuleList(Block(d_model, n_heads, dropout) for _ in range(n_layers))
        self.norm = nn.LayerNorm(d_model, bias=False)
        self.head = nn.Linear(d_model, n_classes)
        table = rotation_table(
            context_length + 1, d_model // n_heads, theta=10_000.0 if positions == "rotary" else None
        )
        self.register_buffer("rotation", table, persistent=False)
        self.initialize_weights(self)
        nn.init.zeros_(self.head.bias)

    def initialize_weights(self, part: nn.Module) -> None:
        """Draw the matrices of the model, or of a part of it, anew."""
        residual_std = 0.02 / math.sqrt(2 * len(self.blocks))
        for name, parameter in part.named_parameters():
            if parameter.dim() > 1:
                nn.init.normal_(parameter, std=residual_std if name.endswith(("out.weight", "down.weight")) else 0.02)

    def forward(self, batch: Mapping[str, Tensor]) -> Tensor:
        """Logits (B, C) of the sequences `input_ids` (B, T).

        Raises:
            ValueError: If T is more than `context_length`.
        """
        input_ids = batch["input_ids"]
        rows, length = input_ids.shape
        if length > self.context_length:
            raise ValueError(f"{length} tokens are more than context_length {self.context_length}")
        mask = batch.get("attention_mask")
        tokens = torch.ones_like(input_ids, dtype=torch.bool) if mask is None else mask.bool()
        x = self.embedding(input_ids)
        if self.position_embedding is not None:
            x = x + self.position_embedding.weight[:length]
        if self.cls is not None:
            x = torch.cat([self.cls.expand(rows, 1, -1), x], dim=1)
            tokens = F.pad(tokens, (1, 0), value=True)
        x = self.norm(self._encoded(self.dropout(x), tokens))
        pooled = mean_pooling(x, tokens) if self.cls is None else cls_pooling(x)
        return self.head(pooled)  # type: ignore[no-any-return]

    def _encoded(self, x: Tensor, tokens: Tensor) -> Tensor:
        rotation, visible = self.get_buffer("rotation")[:, : x.shape[1]], tokens[:, None, None, :]
        for block in self.blocks:
            x = block(x, rotation, visible=visible)
        return x
