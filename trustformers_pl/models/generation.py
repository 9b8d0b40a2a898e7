"""What generating token by token needs: a cache of keys and values, sampling, and evaluation mode."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import torch
from torch import Tensor

if TYPE_CHECKING:
    from collections.abc import Callable, Collection


class KVCache:
    """Keys and values of the positions read so far, in buffers allocated once.

    Attributes:
        length: Positions read.
        capacity: Positions there is room for.
    """

    def __init__(self, n_layers: int, capacity: int) -> None:
        self.n_layers = n_layers
        self.capacity = capacity
        self.length = 0
        self._keys: Tensor | None = None
        self._values: Tensor | None = None
        self._of_columns: dict[int, KVCache] = {}

    def of_column(self, number: int) -> KVCache:
        """The cache of one column of a progressive network; the first one's is this."""
        if not number:
            return self
        if number not in self._of_columns:
            made = self._of_columns[number] = KVCache(self.n_layers, self.capacity)
            made.length = self.length
        return self._of_columns[number]

    def append(self, layer: int, key: Tensor, value: Tensor) -> tuple[Tensor, Tensor]:
        """Store one layer's new positions; `advance` counts them once all layers have.

        Args:
            layer: Which layer, from 0.
            key: (B, n_heads, T, d_head), and `value` likewise. The first sets the buffers' dtype and device, which
                under autocast are not the weights'.
            value: See `key`.

        Returns:
            Views of all keys and values of the layer so far, (B, n_heads, length + T, d_head).
        """
        if self._keys is None or self._values is None:
            batch, heads, _, d_head = key.shape
            self._keys = key.new_empty(self.n_layers, batch, heads, self.capacity, d_head)
            self._values = torch.empty_like(self._keys)
        end = self.length + key.shape[2]
        self._keys[layer, :, :, self.length : end] = key
        self._values[layer, :, :, self.length : end] = value
        return self._keys[layer, :, :, :end], self._values[layer, :, :, :end]

    def advance(self, positions: int) -> None:
        """Count `positions` new ones, after every layer has appended them."""
        self.length += positions
        for one in self._of_columns.values():
            one.advance(positions)

    def clear(self) -> None:
        """Forget all positions and keep the buffers."""
        self.length = 0
        for one in self._of_columns.values():
            one.clear()


def sample_token(logits: Tensor, *, temperature: float, top_k: int | None, generator: torch.Generator | None) -> Tensor:
    """Draw one token a row from softmax(logits / temperature).

    Args:
        logits: (B, V).
        temperature: 0 takes the most likely token and draws nothing.
        top_k: Keep only the `top_k` most likely tokens (and those equal to the last of them); None keeps all.
        generator: Drawn from instead of torch's global one.

    Returns:
        (B, 1) int64.
    """
    if temperature == 0:
        return logits.argmax(dim=-1, keepdim=True)
    scaled = logits.float() / temperature
    if top_k is not None and top_k < scaled.shape[-1]:
        smallest_kept = scaled.topk(top_k, dim=-1).values[:, -1:]
        scaled = scaled.masked_fill(scaled < smallest_kept, float("-inf"))
    return torch.multinomial(scaled.softmax(dim=-1), 1, generator=generator)


def continued(
    read: Callable[[Tensor, bool], Tensor],
    input_ids: Tensor,
    *,
    context_length: int,
    max_new_tokens: int,
    temperature: float,
    top_k: int | None,
    generator: torch.Generator | None,
    stop: Collection[int] = (),
) -> Tensor:
    """Continue each row token by token.

    When the context is full, the last `context_length // 2` tokens (at least one) are read again from position 0: every
    token is predicted from at least that many, and at no position beyond training's.

    Args:
        read: `(tokens (B, T), anew) -> logits (B, V)` of the token after them: they follow those read before, or stand
            at the beginning if `anew`.
        input_ids: (B, T) int64, the prompts.
        context_length: Most positions one forward pass may have.
        max_new_tokens: How many tokens to add at most.
        temperature: Divides the logits; 0 takes the most likely token.
        top_k: Draw only from the `top_k` most likely tokens.
        generator: The only source of randomness; None takes torch's global one.
        stop: Tokens that end a row, which repeats it from there on; when all rows have ended, nothing more is added.

    Returns:
        (B, T + new) int64: prompts and continuations.

    Raises:
        ValueError: A prompt is empty or longer than `context_length`, or an option is out of range.
    """
    check_prompts(input_ids, context_length)
    check_sampling(max_new_tokens, temperature, top_k)
    tokens = unread = input_ids
    ends = torch.tensor(sorted(stop), device=input_ids.device)
    ended = torch.zeros(len(input_ids), 1, dtype=torch.bool, device=input_ids.device)
    positions = 0
    for _ in range(max_new_tokens):
        if positions + unread.shape[1] > context_length:
            positions, unread = 0, tokens[:, -max(1, context_length // 2) :]
        last = read(unread, positions == 0)
        positions += unread.shape[1]
        drawn = sample_token(last, temperature=temperature, top_k=top_k, generator=generator)
        unread = torch.where(ended, tokens[:, -1:], drawn)
        tokens = torch.cat([tokens, unread], dim=1)
        if len(ends):
            ended = torch.isin(unread, ends)
            if bool(ended.all()):
                break
    return tokens


def check_prompts(input_ids: Tensor, context_length: int) -> None:
    """Raise ValueError unless `input_ids` is (B, T) with 1 <= T <= `context_length`."""
    if input_ids.dim() != 2 or input_ids.shape[1] == 0:
        raise ValueError(f"input_ids must be (B, T) with at least one token a prompt, got {tuple(input_ids.shape)}")
    if input_ids.shape[1] > context_length:
        raise ValueError(
            f"a prompt of {input_ids.shape[1]} tokens is longer than context_length {context_length}; "
            f"pass its end, input_ids[:, -{context_length}:]"
        )


def check_sampling(max_new_tokens: int, temperature: float, top_k: int | None) -> None:
    """Raise ValueError, naming the option, unless all three are in range."""
    if max_new_tokens < 0:
        raise ValueError(f"max_new_tokens {max_new_tokens} must be at least 0")
    if not 0.0 <= temperature < math.inf:
        raise ValueError(f"temperature {temperature} must be at least 0 and finite")
    if top_k is not None and top_k < 1:
        raise ValueError(f"top_k {top_k} must be at least 1, or None for all tokens")
