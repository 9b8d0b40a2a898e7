"""Progressive networks of a list of blocks that its owner calls one after another, as a transformer's are."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from trustformers_pl.continual.progressive import ProgressiveNetwork
from trustformers_pl.errors import RefusedError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from trustformers_pl.continual.columns import Column, Reading


class ProgressiveBlocks(ProgressiveNetwork):
    """Stands in the place of an `nn.ModuleList` of blocks: whoever calls its items in order gets one column's answers.

    Each item computes its block in all columns up to the one that answers. Earlier columns go on from what the first
    block was called with; other arguments are the same for all, except caches with a method `of_column(number)`.
    """

    def __len__(self) -> int:
        return len(self.levels)

    def __iter__(self) -> Iterator[Any]:
        run = _Pass(self)
        return iter([_Stage(run, index) for index in range(len(self))])

    def __getitem__(self, index: int | slice) -> Any:
        return list(self)[index]


class _Pass:
    """The columns' activations while one after another block is called."""

    def __init__(self, network: ProgressiveBlocks) -> None:
        self.network = network
        self.columns: list[Column] = []
        self.readings: list[Reading] = []
        self.streams: list[Tensor] = []

    def call(self, index: int, x: Tensor, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        if index == 0:
            self._begin(x)
        if len(self.readings) != len(self.columns) or not self.columns:
            raise RefusedError("progressive: the blocks of a column are called from the first one on, in order")
        with torch.no_grad():
            for number in range(len(self.columns) - 1):
                found = self._one(number, index, self.streams[number], args, kwargs)
                self.streams[number] = found[0] if isinstance(found, tuple) else found
        outputs = self._one(len(self.columns) - 1, index, x, args, kwargs)
        if index == len(self.network) - 1 and not self.network.knows_widths:
            self.network.learn(self.readings[-1].widths)
        return outputs

    def _begin(self, x: Tensor) -> None:
        self.columns = self.network.answering_columns()
        self.streams = [x] * (len(self.columns) - 1)
        self.readings = []
        for column in self.columns:
            self.readings.append(column.begin([reading.inputs for reading in self.readings]))

    def _one(self, number: int, index: int, x: Tensor, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        column = self.columns[number]
        own_args = [_of_column(value, number) for value in args]
        own_kwargs = {key: _of_column(value, number) for key, value in kwargs.items()}
        return column.during(self.readings[number], _block(column, index), x, *own_args, **own_kwargs)


class _Stage:
    """One item of the list."""

    def __init__(self, run: _Pass, index: int) -> None:
        self._run, self._index = run, index

    def __call__(self, x: Tensor, *args: Any, **kwargs: Any) -> Any:
        return self._run.call(self._index, x, args, kwargs)

    def __getattr__(self, name: str) -> Any:
        return getattr(_block(self._run.network.answering_columns()[-1], self._index), name)


def _block(column: Column, index: int) -> nn.Module:
    return column.body.get_submodule(column.levels[index])


def _of_column(value: Any, number: int) -> Any:
    if hasattr(value, "of_column"):
        return value.of_column(number)
    if hasattr(value, "get_seq_length"):
        raise RefusedError("progressive: this cache of keys and values is not one a column; generate without it")
    return value
