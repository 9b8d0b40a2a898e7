"""Progressive columns against equations 2 and 3 of Rusu et al. 2016, written out."""

from __future__ import annotations

import itertools
from typing import TYPE_CHECKING

import pytest
import torch
from digits_tasks import losses, tasks
from torch import nn
from torch.nn import functional as F

from trustformers_pl.continual.columns import AdapterLateral, Column, LinearLateral, ProgressiveColumns

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence


@pytest.fixture(autouse=True)
def _double() -> Iterator[None]:
    torch.manual_seed(0)
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


def layers(*widths: int) -> tuple[list[nn.Module], Sequence[int]]:
    return [nn.Linear(a, b) for a, b in itertools.pairwise(widths)], widths[1:]


def three_columns(lateral: Callable[[Sequence[int], int], nn.Module]) -> ProgressiveColumns:
    """Of different widths, with laterals that are not zero."""
    network = ProgressiveColumns(lateral=lateral, activation=torch.tanh)
    for widths in ((4, 5, 6, 2), (4, 3, 4, 3), (4, 7, 5, 2)):
        network.grow(*layers(*widths))
    for name, parameter in network.named_parameters():
        if "laterals" in name:
            nn.init.normal_(parameter)
    return network


def test_columns_are_equation_2() -> None:
    network, x = three_columns(LinearLateral), torch.randn(8, 4)
    h: list[list[torch.Tensor]] = []
    for k, column in enumerate(network.columns):
        own = [x]
        for i, layer in enumerate(column.layers):
            z = own[-1] @ layer.weight.T + layer.bias
            if i > 0:
                for j in range(k):
                    z = z + h[j][i] @ column.laterals[i - 1].u[j].weight.T
            own.append(z if i == 2 else torch.tanh(z))
        h.append(own)
        torch.testing.assert_close(network(x, k), own[-1])
    assert torch.equal(network(x), network(x, 2))


def test_adapters_are_equation_3() -> None:
    network, x = three_columns(lambda s, w: AdapterLateral(s, w, activation=torch.sigmoid)), torch.randn(8, 4)
    first, second = network.columns[0](x), None
    own = torch.tanh(network.columns[1].layers[0](x))
    second = [own]
    for i in (1, 2):
        one = network.columns[1].laterals[i - 1]
        assert one.v.out_features == network.columns[0].widths[i - 1]
        hidden = torch.sigmoid((one.alpha * first[i - 1]) @ one.v.weight.T + one.v.bias)
        z = network.columns[1].layers[i](second[-1]) + hidden @ one.u.weight.T
        second.append(torch.tanh(z) if i == 1 else z)
    torch.testing.assert_close(network(x, 1), second[-1])


@pytest.mark.parametrize("lateral", [LinearLateral, AdapterLateral])
def test_a_new_column_begins_as_if_it_were_alone_and_learns_its_laterals(lateral: type[nn.Module]) -> None:
    network = ProgressiveColumns(lateral=lateral)
    network.grow(*layers(4, 5, 2))
    parts, widths = layers(4, 6, 2)
    column, x = network.grow(parts, widths), torch.randn(8, 4)
    torch.testing.assert_close(network(x), Column(parts, widths)(x)[-1])
    network(x).square().sum().backward()
    assert any(parameter.grad.any() for parameter in column.laterals.parameters() if parameter.grad is not None)


def test_only_the_newest_column_trains() -> None:
    network = ProgressiveColumns()
    for _ in range(2):
        parts, widths = layers(4, 5, 2)
        network.grow([nn.Sequential(parts[0], nn.Dropout(0.5)), parts[1]], widths)
    network.train()
    assert [column.training for column in network.columns] == [False, True]
    assert not network.columns[0].layers[0].training
    assert network.eval().training is False
    assert {name.split(".")[1] for name, p in network.named_parameters() if p.requires_grad} == {"1"}
    x = torch.randn(8, 4)
    network.train()
    before = network(x, 0)
    assert torch.equal(before, network(x, 0))
    assert not before.requires_grad


def test_no_task_is_forgotten() -> None:
    """Digits, a column a task: the answers to earlier tasks keep their bits."""
    network, answers = ProgressiveColumns(), []
    for number, (x, y, test_x, test_y) in enumerate(tasks()[:3]):
        column = network.double().grow(*layers(64, 30, 30, 2))
        optimizer = torch.optim.Adam(column.parameters(), 1e-2)
        for _ in range(30):
            optimizer.zero_grad()
            losses(network(x.double()), {"y": y}).mean().backward()
            optimizer.step()
        answers.append((test_x.double(), network(test_x.double(), number).detach()))
        assert (answers[-1][1].argmax(1) == test_y % 2).float().mean() > 0.95
    for number, (test_x, wanted) in enumerate(answers):
        assert torch.equal(network(test_x, number), wanted)


def test_columns_of_other_lengths_are_refused() -> None:
    network = ProgressiveColumns(activation=F.gelu)
    network.grow(*layers(4, 5, 2))
    with pytest.raises(ValueError, match="3 layers need as many widths, not 3, and columns, not"):
        network.grow(*layers(4, 5, 5, 2))
