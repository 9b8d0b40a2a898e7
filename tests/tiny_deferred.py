"""Modules whose construction does one thing to tensors that a recording must get right."""

from __future__ import annotations

import copy
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor, nn

if TYPE_CHECKING:
    from collections.abc import Callable


class Initialised(nn.Module):
    """A parameter (96, 40) that a function initialises."""

    def __init__(self, initialise: Callable[[Tensor], Any]) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(96, 40))
        initialise(self.weight)


class Holding(nn.Module):
    """A parameter that is the answer of a function."""

    def __init__(self, make: Callable[[], Tensor]) -> None:
        super().__init__()
        self.weight = nn.Parameter(make())


class Tied(nn.Module):
    """One parameter under two names."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(7, 4, padding_idx=2)
        self.head = nn.Linear(4, 7, bias=False)
        self.head.weight = self.embedding.weight


class Buffers(nn.Module):
    """Constants from Python and NumPy, buffers that are views and arithmetic, values that Python asked for."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("constant", torch.tensor([0.1, 2.0, 3.5]))
        self.register_buffer("view", self.get_buffer("constant")[1:], persistent=False)
        self.register_buffer("of_numpy", torch.from_numpy(np.arange(5)))
        positions = torch.arange(6)[:, None] / 10_000 ** (torch.arange(0, 4, 2) / 4)
        self.register_buffer("rotation", torch.stack([positions.cos(), positions.sin()]), persistent=False)
        self.rates = [rate.item() for rate in torch.linspace(0, 0.1, 4)]
        self.drawn = torch.rand(3).tolist()
        self.plain = torch.rand(2)
        self.listed = [torch.ones(2) * 3, {"deep": torch.arange(3.0)}]


class Slices(nn.Module):
    """Some rows are written to; and then one is changed after it was looked at."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(6, 5))
        with torch.no_grad():
            nn.init.normal_(self.weight[1:3])
            self.weight[4].fill_(2.0)
            self.weight[:, 1].uniform_()
            self.weight[[0, 5]] = torch.rand(2, 5)
            seen = self.weight[0].clone()
            self.weight.mul_(seen.max().item())
            self.weight.data = self.weight.data.t().contiguous()


class Converted(nn.Module):
    """Other dtypes, and a parameter that takes another's place."""

    def __init__(self) -> None:
        super().__init__()
        self.half_linear = nn.Linear(5, 3).half()
        self.brain = nn.Sequential(nn.Linear(3, 2), nn.Linear(2, 2)).to(torch.bfloat16)
        self.double_linear = nn.Linear(3, 3).double()
        self.replaced = nn.Linear(3, 4)
        self.replaced.weight = nn.Parameter(torch.randn(4, 3) * self.replaced.weight)
        self.copied = copy.deepcopy(nn.BatchNorm1d(3))


class GeneratorOfItsOwn(nn.Module):
    """Draws from two generators in turn."""

    def __init__(self) -> None:
        super().__init__()
        own = torch.Generator().manual_seed(3)
        self.first = nn.Parameter(torch.randn(33, generator=own))
        self.second = nn.Parameter(torch.randn(33))
        nn.init.uniform_(self.first[:20].detach(), generator=own)


def named(module: nn.Module) -> dict[str, Tensor]:
    """Parameters and buffers, tied ones under each of their names."""
    parameters = module.named_parameters(remove_duplicate=False)
    return dict([*parameters, *module.named_buffers(remove_duplicate=False)])


def bits(tensor: Tensor) -> bytes:
    return bytes(tensor.detach().contiguous().reshape(-1).view(torch.uint8).numpy())


def differing(found: dict[str, Tensor], expected: dict[str, Tensor]) -> list[str]:
    """Names of tensors that are not the same in dtype, shape and each bit."""
    assert found.keys() == expected.keys()
    return [
        name
        for name, tensor in expected.items()
        if (found[name].dtype, found[name].shape) != (tensor.dtype, tensor.shape) or bits(found[name]) != bits(tensor)
    ]
