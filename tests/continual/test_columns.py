"""Progressive columns against equations 2 and 3 of Rusu et al. 2016, written out."""

from __future__ import annotations

import copy
import pickle
from typing import Any

import pytest
import torch
from digits_tasks import losses, tasks
from torch import Tensor, nn
from torch.nn import functional as F

from trustformers_pl.continual.progressive import ProgressiveNetwork
from trustformers_pl.errors import RefusedError

pytestmark = pytest.mark.usefixtures("double")


def mlp() -> nn.Sequential:
    return nn.Sequential(nn.Linear(4, 5), nn.Tanh(), nn.Linear(5, 6), nn.Tanh(), nn.Linear(6, 2))


def three_columns(body: nn.Module | None = None, **arguments: Any) -> ProgressiveNetwork:
    """With laterals that are not zero."""
    network = ProgressiveNetwork(body or mlp(), **arguments)
    for _ in range(2):
        network.grow()
    with torch.no_grad():
        for name, parameter in network.named_parameters():
            if "laterals" in name:
                nn.init.normal_(parameter)
    return network


def by_hand(network: ProgressiveNetwork, x: Tensor) -> list[Tensor]:
    """What each column answers, by equation 2 or 3, from its weights alone."""
    h: list[list[Tensor]] = []
    for k, column in enumerate(network.columns):
        own = [x]
        for i in range(3):
            layer = column.body[2 * i]
            z = own[-1] @ layer.weight.T + layer.bias
            if i and k:
                lateral, before = column.laterals[i - 1], [h[j][i] for j in range(k)]
                if network.lateral == "linear":
                    for j in range(k):
                        z = z + before[j] @ lateral.u[j].weight.T
                else:
                    scaled = torch.cat([lateral.alpha[j] * before[j] for j in range(k)], -1)
                    z = z + torch.sigmoid(scaled @ lateral.v.weight.T + lateral.v.bias) @ lateral.u.weight.T
            own.append(z if i == 2 else torch.tanh(z))
        h.append([one.detach() for one in own])
    return [*(one[-1] for one in h[:-1]), own[-1]]


@pytest.mark.parametrize("kind", ["linear", "adapter"])
def test_columns_and_their_gradients_are_the_equations(kind: Any) -> None:
    network, x = three_columns(lateral=kind, activation=torch.sigmoid), torch.randn(8, 4)
    expected = by_hand(network, x)
    for task, one in enumerate(expected):
        network.task = task
        torch.testing.assert_close(network(x), one)
    network.task = None
    expected[-1].square().sum().backward()
    gradients = {name: p.grad.clone() for name, p in network.named_parameters() if p.grad is not None}
    assert {name.split(".")[1] for name in gradients} == {"2"}
    network.zero_grad()
    network(x).square().sum().backward()
    found = {name: p.grad for name, p in network.named_parameters() if p.grad is not None}
    assert found.keys() == gradients.keys()
    for name, gradient in gradients.items():
        torch.testing.assert_close(found[name], gradient)


@pytest.mark.parametrize("kind", ["linear", "adapter"])
def test_a_new_column_begins_as_if_it_were_alone_and_learns_its_laterals(kind: Any) -> None:
    network, x = ProgressiveNetwork(mlp(), lateral=kind), torch.randn(8, 4)
    column = network.grow()
    torch.testing.assert_close(network(x), column.body(x))
    assert not torch.equal(column.body[0].weight, network.columns[0].body[0].weight)
    network(x).square().sum().backward()
    assert all(lateral.get_parameter(name).grad.any() for lateral in column.laterals for name in _u(lateral))


def _u(lateral: nn.Module) -> list[str]:
    return [name for name, _ in lateral.named_parameters() if name.startswith("u.")]


@pytest.mark.parametrize("kind", ["linear", "adapter"])
def test_convolutions_read_by_convolutions_of_their_geometry(kind: Any) -> None:
    def images() -> nn.Sequential:
        return nn.Sequential(
            nn.Conv2d(1, 3, 3), nn.BatchNorm2d(3), nn.ReLU(), nn.Conv2d(3, 4, 3, stride=2, padding=1), nn.Flatten(),
            nn.Linear(36, 2),
        )  # fmt: skip

    network, x = three_columns(images(), lateral=kind), torch.randn(2, 1, 8, 8)
    assert network.levels == ("0", "3", "5")
    network(x)
    network.eval()
    first, second = (network.columns[i].body for i in (0, 1))
    h = [first[:3](x), first[:5](x)]
    one, two = network.columns[1].laterals
    if kind == "linear":
        added = F.conv2d(h[0], one.u[0].weight, stride=2, padding=1), h[1] @ two.u[0].weight.T
    else:
        narrow = torch.relu(
            torch.einsum("oi,bihw->bohw", one.v.weight[..., 0, 0], one.alpha * h[0]) + one.v.bias[:, None, None]
        )
        flat = torch.relu(two.alpha * h[1] @ two.v.weight.T + two.v.bias)
        added = F.conv2d(narrow, one.u.weight, stride=2, padding=1), flat @ two.u.weight.T
    z = second[3](second[:3](x)) + added[0]
    network.task = 1
    torch.testing.assert_close(network(x), second[5](z.flatten(1)) + added[1])


class Trunk(nn.Module):
    """Residual blocks of a transformer, in a list; widths are known from a pass alone."""

    def __init__(self) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(nn.TransformerEncoderLayer(8, 2, 16, 0.1, batch_first=True) for _ in range(2))
        self.norm = nn.LayerNorm(8)

    def forward(self, x: Tensor) -> Tensor:
        for block in self.blocks:
            x = block(x)
        return self.norm(x)


def test_blocks_of_a_transformer() -> None:
    network, x = ProgressiveNetwork(Trunk()), torch.randn(3, 5, 8)
    with pytest.raises(RefusedError, match="widths of the levels are known when a batch was computed"):
        network.grow()
    network(x)
    column = network.grow()
    nn.init.normal_(column.laterals[0].u[0].weight)
    network.eval()
    own, first = column.body, network.columns[0].body
    z = own.blocks[1](own.blocks[0](x)) + first.blocks[0](x) @ column.laterals[0].u[0].weight.T
    torch.testing.assert_close(network(x), own.norm(z))


def test_only_the_newest_column_trains() -> None:
    body = nn.Sequential(nn.Linear(4, 5), nn.BatchNorm1d(5), nn.Dropout(0.5), nn.Linear(5, 2))
    network = ProgressiveNetwork(body)
    network.grow()
    network.train()
    assert [column.training for column in network.columns] == [False, True]
    assert not body[2].training
    assert {name.split(".")[1] for name, p in network.named_parameters() if p.requires_grad} == {"1"}
    x, before = torch.randn(8, 4), body[1].running_mean.clone()
    network(x).sum().backward()
    assert torch.equal(body[1].running_mean, before)
    assert not torch.equal(network.columns[1].body[1].running_mean, before)
    network.task = 0
    answers = network(x)
    assert torch.equal(answers, network(x))
    assert not answers.requires_grad
    assert network.eval().training is False


def test_no_task_is_forgotten() -> None:
    """Digits, a column a task: the answers to earlier tasks keep their bits."""
    network, answers = (
        ProgressiveNetwork(nn.Sequential(nn.Linear(64, 30), nn.ReLU(), nn.Linear(30, 30), nn.ReLU(), nn.Linear(30, 2))),
        [],
    )
    for number, (x, y, test_x, test_y) in enumerate(tasks()[:3]):
        if number:
            network.grow()
        optimizer = torch.optim.Adam([p for p in network.parameters() if p.requires_grad], 1e-2)
        for _ in range(30):
            optimizer.zero_grad()
            losses(network(x.double()), {"y": y}).mean().backward()
            optimizer.step()
        answers.append((test_x.double(), network(test_x.double()).detach()))
        assert (answers[-1][1].argmax(1) == test_y % 2).float().mean() > 0.95
    for network.task, (test_x, wanted) in enumerate(answers):
        assert torch.equal(network(test_x), wanted)


@pytest.mark.parametrize("body", [mlp, Trunk])
def test_a_state_makes_as_many_columns_as_it_has(body: Any) -> None:
    x = torch.randn(3, 4) if body is mlp else torch.randn(3, 5, 8)
    network = ProgressiveNetwork(body())
    network(x)
    network.grow()
    network.grow()
    for count in (3, 2):
        other = ProgressiveNetwork(body(), seed=7)
        if count == 2:
            network.shrink(2)
            other(x)
            for _ in range(3):
                other.grow()
        other.load_state_dict(network.state_dict())
        assert len(other.columns) == count
        assert torch.equal(network.eval()(x), other.eval()(x))
        assert [column.training for column in other.train().columns] == [*[False] * (count - 1), True]


def test_copies_are_of_their_own() -> None:
    network, x = three_columns(), torch.randn(3, 4)
    network(x)
    for other in (copy.deepcopy(network), pickle.loads(pickle.dumps(network))):
        assert torch.equal(network(x), other(x))
        with torch.no_grad():
            other.columns[0].body[0].weight.zero_()
            other.columns[2].laterals[0].u[0].weight.zero_()
        assert not torch.equal(network(x), other(x))
        assert not any(
            level._forward_hooks.keys() - {0} and len(level._forward_hooks) > 1 for level in other.columns[0].body
        )
        assert other.grow().body[0].weight.requires_grad


def test_a_level_that_is_replaced_is_read_again() -> None:
    """As LoRA or quantization-aware training does after the column was built."""
    network, x = three_columns(), torch.randn(3, 4)
    expected = network(x)
    old = network.columns[2].body[2]
    network.columns[2].body[2] = nn.Linear(5, 6)
    network.columns[2].body[2].load_state_dict(old.state_dict())
    assert torch.equal(network(x), expected)
    assert not old._forward_hooks


class Own(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.eye(4))

    def forward(self, x: Tensor) -> Tensor:
        return x @ self.weight


@pytest.mark.parametrize(
    ("body", "arguments", "said"),
    [
        (mlp, {"levels": ["0", "5"]}, r"progressive.levels: the column has no '5'; it has 0, 1, 2, 3, 4"),
        (mlp, {"levels": ["0"]}, "give two or more different ones"),
        (Own, {}, "Own is no sequence and has 0 lists of blocks; name its `levels`"),
        (lambda: nn.Sequential(nn.Linear(4, 4), Own()), {}, r"1 \(Own\) has parameters and no reset_parameters\(\)"),
    ],
)
def test_what_cannot_be_a_column_is_refused(body: Any, arguments: Any, said: str) -> None:
    with pytest.raises(RefusedError, match=said):
        ProgressiveNetwork(body(), **arguments)


def test_a_column_may_begin_as_a_copy() -> None:
    network = ProgressiveNetwork(nn.Sequential(Own(), nn.Linear(4, 2)), levels=["0", "1"], start="copy")
    network(torch.randn(1, 4))
    column = network.grow()
    assert torch.equal(column.body[1].weight, network.columns[0].body[1].weight)
    assert column.body[1].weight is not network.columns[0].body[1].weight


def test_a_level_that_is_called_twice_is_refused() -> None:
    shared = nn.Linear(4, 4)
    network = ProgressiveNetwork(nn.Sequential(shared, shared, nn.Linear(4, 2)), levels=["0", "2"])
    with pytest.raises(RefusedError, match="level 0 was called 2 times in one pass"):
        network(torch.randn(1, 4))
