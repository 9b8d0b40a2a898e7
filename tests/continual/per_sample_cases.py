"""Small float64 models, one for each way in which parameters meet data, with a batch of each."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from trustformers_pl.models import GPT, EncoderClassifier

if TYPE_CHECKING:
    from collections.abc import Callable

Case = tuple[nn.Module, Any]


class Classes(nn.Module):
    """Logits of a body, from the batch's `x`."""

    def __init__(self, *body: nn.Module) -> None:
        super().__init__()
        self.body = nn.Sequential(*body)

    def forward(self, batch: Any) -> Tensor:
        return self.body(batch["x"])


class Pooled(nn.Module):
    """Mean over positions."""

    def forward(self, x: Tensor) -> Tensor:
        return x.mean(1)


class TimeFirst(nn.Module):
    """Runs a layer that wants (T, B, d)."""

    def __init__(self, layer: nn.Module) -> None:
        super().__init__()
        self.layer = layer

    def forward(self, x: Tensor) -> Tensor:
        found = self.layer(x.transpose(0, 1))
        return (found[0] if isinstance(found, tuple) else found).transpose(0, 1)


class Odd(nn.Module):
    """Parameters in functions: a matrix used twice, transposed once, scales, shifts, a table without a batch."""

    def __init__(self, width: int, length: int) -> None:
        super().__init__()
        self.twice = nn.Parameter(torch.randn(width, width) / 3)
        self.turned = nn.Parameter(torch.randn(width, width) / 3)
        self.scale = nn.Parameter(torch.rand(width) + 0.5)
        self.shift = nn.Parameter(torch.randn(1, length, 1))
        self.places = nn.Embedding(length, width)
        self.temperature = nn.Parameter(torch.tensor(0.7))
        self.token = nn.Parameter(torch.randn(1, 1, width))
        self.unused = nn.Parameter(torch.randn(2))

    def forward(self, x: Tensor) -> Tensor:
        x = torch.cat([self.token.expand(len(x), 1, -1), x[:, 1:]], 1)
        x = x + self.shift + self.places(torch.arange(x.shape[1])[None])
        x = F.linear(x, self.twice).tanh() @ self.turned
        return F.linear(x * self.scale, self.twice.t()).mean(1) * self.temperature


class ByRows(nn.Module):
    """GPT-2's `Conv1D`: rows of all samples in one matrix."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.weight, self.bias = nn.Parameter(torch.randn(width, width) / 3), nn.Parameter(torch.randn(width))

    def forward(self, x: Tensor) -> Tensor:
        return torch.addmm(self.bias, x.reshape(-1, x.shape[-1]), self.weight).view_as(x)


def vectors(*shape: int, classes: int = 3) -> Any:
    return {"x": torch.randn(*shape), "labels": torch.randint(0, classes, (shape[0],))}


def tokens(samples: int, length: int, *, vocabulary: int, classes: int | None = None) -> Any:
    shape = (samples, length) if classes is None else (samples,)
    labels = torch.randint(0, classes or vocabulary, shape)
    return {"input_ids": torch.randint(0, vocabulary, (samples, length)), "labels": labels}


def mlp() -> Case:
    return Classes(nn.Linear(5, 7), nn.ReLU(inplace=True), nn.Dropout(0.5), nn.Linear(7, 3)), vectors(6, 5)


def sequence() -> Case:
    return Classes(nn.Linear(5, 6), nn.LayerNorm(6), nn.GELU(), nn.RMSNorm(6), Pooled(), nn.Linear(6, 3)), vectors(
        4, 7, 5
    )


def shared() -> Case:
    layer = nn.Linear(5, 5)
    return Classes(layer, nn.Tanh(), layer, nn.Tanh(), layer, nn.Linear(5, 3)), vectors(4, 5)


def images() -> Case:
    body = [
        nn.Conv2d(2, 4, 3, stride=2, padding=1),
        nn.BatchNorm2d(4),
        nn.ReLU(inplace=True),
        nn.Conv2d(4, 6, (1, 2), dilation=(1, 2), groups=2, padding_mode="circular", padding=(0, 1)),
        nn.GroupNorm(3, 6),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(6, 3),
    ]
    model = Classes(*body)
    batch = vectors(4, 2, 7, 7)
    model(batch)  # running statistics that are not those of a new layer
    return model, batch


def signals() -> Case:
    body = [nn.Conv1d(2, 4, 3, padding=1), nn.BatchNorm1d(4), nn.Conv1d(4, 4, 2, stride=2, groups=4), nn.Flatten()]
    return Classes(*body, nn.Linear(16, 3)), vectors(4, 2, 8)


def named_padding() -> Case:
    return Classes(nn.Conv1d(2, 4, 3, padding="same"), nn.Flatten(), nn.Linear(16, 3)), vectors(4, 2, 4)


def attention() -> Case:
    layer = nn.TransformerEncoderLayer(6, 2, 8, batch_first=True)
    return Classes(layer, Pooled(), nn.Linear(6, 3)), vectors(4, 5, 6)


def time_first() -> Case:
    return Classes(TimeFirst(nn.TransformerEncoderLayer(6, 2, 8)), Pooled(), nn.Linear(6, 3)), vectors(4, 5, 6)


def time_first_square() -> Case:
    """As many positions as samples: nothing but the gradients tells them apart."""
    return Classes(TimeFirst(nn.TransformerEncoderLayer(6, 2, 8)), Pooled(), nn.Linear(6, 3)), vectors(4, 4, 6)


def recurrent() -> Case:
    return Classes(TimeFirst(nn.LSTM(5, 4)), Pooled(), nn.Linear(4, 3)), vectors(4, 6, 5)


def odd() -> Case:
    return Classes(Odd(6, 5), nn.Linear(6, 3)), vectors(4, 5, 6)


def by_rows() -> Case:
    return Classes(ByRows(6), nn.Tanh(), Pooled(), nn.Linear(6, 3)), vectors(4, 5, 6)


class Lookup(Classes):
    def forward(self, batch: Any) -> Tensor:
        return self.body(batch["input_ids"])


def lookup() -> Case:
    body = [nn.Embedding(5, 6, padding_idx=-5), nn.Tanh(), Pooled(), nn.Linear(6, 3)]
    return Lookup(*body), tokens(4, 9, vocabulary=5, classes=3)


def gpt() -> Case:
    batch = tokens(3, 6, vocabulary=11)
    batch["labels"][1, 2:] = -100
    return GPT(vocab_size=11, d_model=8, n_layers=2, n_heads=2, context_length=6, dropout=0.3), batch


def encoder() -> Case:
    sizes: dict[str, Any] = {"vocab_size": 11, "d_model": 8, "n_layers": 1, "n_heads": 2, "context_length": 6}
    model = EncoderClassifier(n_classes=3, pooling="cls", positions="learned", **sizes)
    nn.init.normal_(model.cls)
    return model, tokens(3, 6, vocabulary=11, classes=3)


MAKERS: list[Callable[[], Case]] = [
    mlp, sequence, shared, images, signals, named_padding, attention, time_first, time_first_square, recurrent, odd,
    by_rows, lookup, gpt, encoder,
]  # fmt: skip
