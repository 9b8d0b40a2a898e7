"""A small decoder-only transformer for next-token prediction."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import torch
from lightning import LightningModule
from torch import Tensor, nn
from torch.nn import functional as F

from trustformers_pl.models.block import Block, rotation_table, within_documents
from trustformers_pl.models.generation import KVCache, continued
from trustformers_pl.models.next_token import NextTokenLoss
from trustformers_pl.modes import evaluating

if TYPE_CHECKING:
    from collections.abc import Mapping


class GPT(NextTokenLoss, LightningModule):
    """Decoder-only transformer: pre-norm, rotary positions, SwiGLU, tied embeddings, no biases.

    A batch is a mapping with `input_ids` and `labels`, (B, T) int64 each. `labels[:, t]` is the token to predict after
    position t, already shifted; -100 is ignored. `document_ids` (B, T) int64, if there are some, number the documents
    packed in a row, and attention stays within each (positions are relative, so they need no other start).

    Matrices start from a normal distribution of standard deviation 0.02, those that write to the residual stream from
    0.02 / sqrt(2 * n_layers) (GPT-2, Radford et al. 2019, section 2.3).
    The defaults make 0.82 million parameters. No optimizer is configured here.

    Args:
        vocab_size: Number of tokens V; 256 for bytes.
        d_model: Width of the residual stream.
        n_layers: Number of blocks.
        n_heads: Attention heads; d_model / n_heads must be an even whole number.
        context_length: Most positions one forward pass may have.
        dropout: Probability of dropping attention weights, block outputs and embeddings.

    Raises:
        ValueError: If an argument is out of range, or the heads do not divide d_model.
    """

    def __init__(
        self,
        *,
        vocab_size: int = 256,
        d_model: int = 128,
        n_layers: int = 4,
        n_heads: int = 4,
        context_length: int = 128,
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        if min(vocab_size, d_model, n_layers, n_heads, context_length) < 1:
            raise ValueError("vocab_size, d_model, n_layers, n_heads and context_length must all be at least 1")
        self.save_hyperparameters()
        self.vocab_size, self.context_length = vocab_size, context_length
        self.embedding = nn.Embedding(vocab_size, d_model)
        self.dropout = nn.Dropout(dropout)
        self.blocks = nn.ModuleList(Block(d_model, n_heads, dropout) for _ in range(n_layers))
        self.norm = nn.LayerNorm(d_model, bias=False)
        self.register_buffer("rotation", rotation_table(context_length, d_model // n_heads), persistent=False)
        self.initialize_weights(self)

    def initialize_weights(self, part: nn.Module) -> None:
        """Draw the matrices of the model, or of a part of it, anew."""
        residual_std = 0.02 / math.sqrt(2 * len(self.blocks))
        for name, parameter in part.named_parameters():
            if parameter.dim() == 2:
                nn.init.normal_(parameter, std=residual_std if name.endswith(("out.weight", "down.weight")) else 0.02)

    def forward(self, batch: Mapping[str, Tensor]) -> Tensor:
        """Logits (B, T, V) of the token after each position of `input_ids` (B, T).

        Raises:
            ValueError: If T is more than `context_length`.
        """
        documents = batch.get("document_ids")
        return self.logits(batch["input_ids"], visible=None if documents is None else within_documents(documents))

    def logits(self, input_ids: Tensor, cache: KVCache | None = None, visible: Tensor | None = None) -> Tensor:
        """Logits (B, T, V) after T tokens (B, T) that follow those in `cache`, which is extended by them.

        With `visible` (B, 1, T, T) bool, each position attends to those where it is true.

        Raises:
            ValueError: If that makes more positions than `context_length`.
        """
        start = 0 if cache is None else cache.length
        new = input_ids.shape[1]
        if start + new > self.context_length:
            raise ValueError(f"{start + new} positions are more than context_length {self.context_length}")
        rotation = self.get_buffer("rotation")[:, start : start + new]
        x = self.dropout(self.embedding(input_ids))
        for layer, block in enumerate(self.blocks):
            x = block(x, rotation, cache, layer, visible)
        if cache is not None:
            cache.advance(new)
        return F.linear(self.norm(x), self.embedding.weight)

    def generate(
        self,
        input_ids: Tensor,
        *,
        max_new_tokens: int,
        temperature: float = 1.0,
        top_k: int | None = None,
        generator: torch.Generator | None = None,
    ) -> Tensor:
        """Continue each row token by token, in evaluation mode, with cached keys and values.

        When the context is full, the cache is dropped and the last `context_length // 2` tokens (at least one) are read
        again from position 0: every token is predicted from at least that many, and at no position beyond training's.

        Args:
            input_ids: (B, T) int64, the prompts.
            max_new_tokens: How many tokens to add.
            temperature: Divides the logits; 0 takes the most likely token.
            top_k: Draw only from the `top_k` most likely tokens.
            generator: The only source of randomness, on the device of `input_ids`; None takes torch's global one.

        Returns:
            (B, T + max_new_tokens) int64: prompts and continuations.

        Raises:
            ValueError: A prompt is empty or longer than `context_length`, or an option is out of range.
        """
        cache = KVCache(len(self.blocks), self.context_length)

        def read(unread: Tensor, anew: bool) -> Tensor:
            if anew:
                cache.clear()
            return self.logits(unread, cache)[:, -1]

        with evaluating(self), torch.inference_mode():
            tokens = continued(
                read,
                input_ids,
                context_length=self.context_length,
                max_new_tokens=max_new_tokens,
                temperature=temperature,
                top_k=top_k,
                generator=generator,
            )
        return tokens.clone()  # outside of inference mode, so that it can be trained on
