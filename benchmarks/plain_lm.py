"""A byte-level language model in plain PyTorch: what the same recipe costs and reaches with no framework around it.

`python benchmarks/plain_lm.py --steps 1600 --seed 0` prints tokens per second and bits per byte on the last 5 % of the
running Python's standard library; `--ngram` prints those of a byte 3-gram model (three bytes of context) instead.
Nothing is imported from trustformers_pl, so that the two can check each other.
"""

from __future__ import annotations

import argparse
import math
import time
from itertools import islice
from typing import TYPE_CHECKING

import torch
from byte_ngram import ngram_bits_per_byte
from library_text import read_split
from torch import nn
from torch.nn.functional import cross_entropy, scaled_dot_product_attention, silu

if TYPE_CHECKING:
    from collections.abc import Iterator

CONTEXT, BATCH, WIDTH, HIDDEN, HEADS, LAYERS, BYTES = 128, 16, 128, 344, 4, 4, 256
LR, BETAS, DECAY, WARMUP, CLIP = 3e-3, (0.9, 0.99), 0.1, 100, 1.0


class Layer(nn.Module):
    """Attention and SwiGLU, each on a normalised residual stream."""

    def __init__(self) -> None:
        super().__init__()
        self.norm1, self.norm2 = nn.LayerNorm(WIDTH, bias=False), nn.LayerNorm(WIDTH, bias=False)
        self.qkv = nn.Linear(WIDTH, 3 * WIDTH, bias=False)
        self.proj = nn.Linear(WIDTH, WIDTH, bias=False)
        self.fc1 = nn.Linear(WIDTH, 2 * HIDDEN, bias=False)
        self.fc2 = nn.Linear(HIDDEN, WIDTH, bias=False)

    def forward(self, x: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor) -> torch.Tensor:
        """(B, T, WIDTH) to (B, T, WIDTH)."""
        b, t, _ = x.shape
        q, k, v = (y.view(b, t, HEADS, -1).transpose(1, 2) for y in self.qkv(self.norm1(x)).split(WIDTH, dim=-1))
        q, k = (y * cos + torch.roll(y, WIDTH // HEADS // 2, dims=-1) * sin for y in (q, k))
        x = x + self.proj(scaled_dot_product_attention(q, k, v, is_causal=True).transpose(1, 2).reshape(b, t, WIDTH))
        gate, value = self.fc1(self.norm2(x)).split(HIDDEN, dim=-1)
        return x + self.fc2(silu(gate) * value)


class Model(nn.Module):
    """The layers between one embedding and its transpose."""

    def __init__(self) -> None:
        super().__init__()
        self.embed, self.norm = nn.Embedding(BYTES, WIDTH), nn.LayerNorm(WIDTH, bias=False)
        self.layers = nn.ModuleList(Layer() for _ in range(LAYERS))
        for name, weight in self.named_parameters():
            if weight.ndim == 2:
                nn.init.normal_(weight, std=0.02 / (math.sqrt(2 * LAYERS) if "proj" in name or "fc2" in name else 1))
        half = WIDTH // HEADS // 2
        angle = torch.arange(CONTEXT)[:, None] * 10_000.0 ** (-torch.arange(half) / half)
        self.register_buffer("cos", angle.cos().repeat(1, 2), persistent=False)
        self.register_buffer("sin", torch.cat([-angle.sin(), angle.sin()], dim=1), persistent=False)

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        """(B, CONTEXT) bytes to (B, CONTEXT, BYTES) logits."""
        x = self.embed(tokens)
        for layer in self.layers:
            x = layer(x, self.cos, self.sin)
        return self.norm(x) @ self.embed.weight.T


def windows(text: torch.Tensor, rows: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Inputs and next bytes of the windows numbered `rows`, (B, CONTEXT) int64 each."""
    both = text[rows[:, None] * CONTEXT + torch.arange(CONTEXT + 1)].long()
    return both[:, :-1], both[:, 1:]


def shuffled(text: torch.Tensor) -> Iterator[torch.Tensor]:
    """Numbers of the windows of each batch, epoch after epoch, whole batches only."""
    while True:
        order = torch.randperm((len(text) - 1) // CONTEXT)
        yield from order[: len(order) // BATCH * BATCH].split(BATCH)


def learning_rate(step: int, steps: int) -> float:
    """Factor at `step` of linear warm-up, then a cosine to 0 at `steps`."""
    if step < WARMUP:
        return (step + 1) / WARMUP
    return 0.5 * (1 + math.cos(math.pi * (step - WARMUP) / max(1, steps - WARMUP)))


def train(model: Model, text: torch.Tensor, steps: int) -> float:
    """Train for `steps` steps; return tokens per second."""
    matrices, vectors = [p for p in model.parameters() if p.ndim > 1], [p for p in model.parameters() if p.ndim < 2]
    groups = [{"params": matrices, "weight_decay": DECAY}, {"params": vectors, "weight_decay": 0.0}]
    optimizer = torch.optim.AdamW(groups, lr=LR, betas=BETAS, fused=True)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: learning_rate(step, steps))
    start = time.perf_counter()
    for rows in islice(shuffled(text), steps):
        inputs, targets = windows(text, rows)
        loss = cross_entropy(model(inputs).flatten(0, 1), targets.flatten())
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), CLIP)
        optimizer.step()
        schedule.step()
    return steps * BATCH * CONTEXT / (time.perf_counter() - start)


@torch.no_grad()
def bits_per_byte(model: Model, text: torch.Tensor) -> float:
    """Mean over all whole windows of `text`."""
    nats = count = 0.0
    for rows in torch.arange((len(text) - 1) // CONTEXT).split(64):
        inputs, targets = windows(text, rows)
        nats += float(cross_entropy(model(inputs).flatten(0, 1), targets.flatten(), reduction="sum"))
        count += targets.numel()
    return nats / count / math.log(2)


def main() -> None:
    """Read the arguments, run, print."""
    parser = argparse.ArgumentParser(description="Byte-level language model in plain PyTorch.")
    parser.add_argument("--steps", type=int, default=1600, help="optimizer steps of 2,048 bytes")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--ngram", action="store_true", help="only the byte 3-gram model")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    train_text, held_out = read_split()
    if arguments.ngram:
        print(f"3-gram: {ngram_bits_per_byte(train_text, held_out):.4f} bits/byte")
        return
    torch.manual_seed(arguments.seed)
    model = Model()
    speed = train(model, train_text, arguments.steps)
    quality = bits_per_byte(model, held_out)
    print(
        f"{sum(p.numel() for p in model.parameters())} parameters, {arguments.steps} steps of {BATCH * CONTEXT} bytes"
    )
    print(f"{speed:.0f} tokens/s, {quality:.4f} bits/byte held out")


if __name__ == "__main__":
    main()
