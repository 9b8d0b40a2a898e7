"""The transformer block of `GPT` and `EncoderClassifier`: pre-norm, rotary attention, SwiGLU."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn
from torch.nn import functional as F

if TYPE_CHECKING:
    from trustformers_pl.models.generation import KVCache


def rotation_table(length: int, d_head: int, *, theta: float | None = 10_000.0) -> Tensor:
    """The rotary embedding's angles: position p turns pair i by p * theta**(-2i / d_head) radians.

    Su et al. 2021, "RoFormer", section 3.2.2; pair i is (i, i + d_head / 2), as in GPT-NeoX and LLaMA checkpoints.

    Args:
        length: Number of positions.
        d_head: Width of a head.
        theta: None turns nothing.

    Returns:
        (2, length, d_head): the cosines, and the sines with the sign that `rotate` needs.
    """
    exponents = -torch.arange(0, d_head, 2, dtype=torch.float64) / d_head
    frequencies = torch.zeros_like(exponents) if theta is None else theta**exponents
    angles = torch.outer(torch.arange(length, dtype=torch.float64), frequencies)
    cosines = torch.cat([angles.cos(), angles.cos()], dim=-1)
    sines = torch.cat([-angles.sin(), angles.sin()], dim=-1)
    return torch.stack([cosines, sines]).to(torch.get_default_dtype())


def rotate(x: Tensor, rotation: Tensor) -> Tensor:
    """Turn each pair of `x` (B, H, T, d_head) by its position's angle, given `rotation` (2, T, d_head)."""
    first, second = x.chunk(2, dim=-1)
    cosines, sines = rotation.to(x.dtype)
    return x * cosines + torch.cat([second, first], dim=-1) * sines  # type: ignore[no-any-return]


def within_documents(document_ids: Tensor) -> Tensor:
    """Which positions see which, where several documents stand in a row: those before, of the same document.

    Args:
        document_ids: (B, T) int64, equal within a document.

    Returns:
        (B, 1, T, T) bool.
    """
    same = document_ids[:, None, :, None] == document_ids[:, None, None, :]
    return same.tril()


class Attention(nn.Module):
    """Multi-head self-attention (Vaswani et al. 2017, section 3.2) on rotated queries and keys, no biases.

    Causal, unless it is told which positions may be attended to.

    Raises:
        ValueError: If the heads do not divide d_model into even widths, or `dropout` is not in [0, 1).
    """

    def __init__(self, d_model: int, n_heads: int, dropout: float) -> None:
        if d_model % (2 * n_heads):
            raise ValueError(f"d_model {d_model} must be a multiple of 2 * n_heads = {2 * n_heads}")
        if not 0.0 <= dropout < 1.0:
            raise ValueError(f"dropout {dropout} must be in [0, 1)")
        super().__init__()
        self.n_heads = n_heads
        self.dropout = dropout
        self.qkv = nn.Linear(d_model, 3 * d_model, bias=False)
        self.out = nn.Linear(d_model, d_model, bias=False)

    def forward(
        self, x: Tensor, rotation: Tensor, cache: KVCache | None, layer: int, visible: Tensor | None = None
    ) -> Tensor:
        """Attend from each of the T new positions of `x` (B, T, d_model) to itself and all before it.

        With `visible`, which broadcasts to (B, 1, T, T) bool, attend to all positions where it is true instead.
        """
        batch, new, d_model = x.shape
        query, key, value = self.qkv(x).view(batch, new, 3, self.n_heads, -1).permute(2, 0, 3, 1, 4)
        query, key = rotate(query, rotation), rotate(key, rotation)
        if cache is not None:
            key, value = cache.append(layer, key, value)
        read = key.shape[2]
        mask = visible
        if visible is None and 1 < new < read:  # is_causal would align the mask to the first key instead of the last
            mask = torch.ones(new, read, dtype=torch.bool, device=x.device).tril(read - new)
        mixed = F.scaled_dot_product_attention(
            query,
            key,
            value,
            mask,
            dropout_p=self.dropout if self.training else 0.0,
            is_causal=visible is None and new == read,
        )
        return self.out(mixed.transpose(1, 2).reshape(batch, new, d_model))  # type: ignore[no-any-return]


class SwiGLU(nn.Module):
    """`down(silu(gate(x)) * up(x))`, no biases (Shazeer 2020, "GLU Variants Improve Transformer", equation 6).

    The hidden width is 8/3 of d_model, rounded to a multiple of 8: as many weights as a GELU layer of width 4.
    """

    def __init__(self, d_model: int) -> None:
        super().__init__()
        hidden = 8 * max(1, round(d_model / 3))
        self.gate_up = nn.Linear(d_model, 2 * hidden, bias=False)
        self.down = nn.Linear(hidden, d_model, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """(..., d_model) to (..., d_model)."""
        gate, up = self.gate_up(x).chunk(2, dim=-1)
        return self.down(F.silu(gate) * up)  # type: ignore[no-any-return]


class Block(nn.Module):
    """Pre-norm residual block: `x + attention(norm(x))`, then `x + mlp(norm(x))`."""

    def __init__(self, d_model: int, n_heads: int, dropout: float) -> None:
        super().__init__()
        self.attention_norm = nn.LayerNorm(d_model, bias=False)
        self.attention = Attention(d_model, n_heads, dropout)
        self.mlp_norm = nn.LayerNorm(d_model, bias=False)
        self.mlp = SwiGLU(d_model)
        self.dropout = nn.Dropout(dropout)

    def forward(
        self,
        x: Tensor,
        rotation: Tensor,
        cache: KVCache | None = None,
        layer: int = 0,
        visible: Tensor | None = None,
    ) -> Tensor:
        """(B, T, d_model) to (B, T, d_model); `rotation` (2, T, d_head) is that of the T positions.

        `visible`: see `Attention.forward`.
        """
        x = x + self.dropout(self.attention(self.attention_norm(x), rotation, cache, layer, visible))
        return x + self.dropout(self.mlp(self.mlp_norm(x)))  # type: ignore[no-any-return]
