"""Constructions that cannot be recorded are done in the ordinary way, with the same numbers and one line in the log."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny_deferred as blocks
import torch
from torch import nn

from trustformers_pl.deferred import build_deferred, deferred_record, fill


class ThroughNumpy(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(3, 3)
        self.noise = float(np.random.rand())
        values = np.linalg.qr(self.first.weight.detach().numpy())[0]
        self.second = nn.Parameter(torch.from_numpy(values) + torch.rand(3, 3))


class FromAFile(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(2, 2)
        self.load_state_dict(torch.load("weights.pt", weights_only=True))


class IntoAnother(nn.Module):
    kept = torch.zeros(3)

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(2, 2)
        IntoAnother.kept.copy_(torch.rand(3))


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (ThroughNumpy, "ThroughNumpy is built with all its weights at once: it takes the values of weights out of"),
        (IntoAnother, "aten.copy_.default writes into a tensor that was there before"),
    ],
)
def test_ordinary_construction_takes_over(make: Any, said: str, caplog: pytest.LogCaptureFixture) -> None:
    torch.manual_seed(1)
    np.random.seed(1)
    ordinary, after = make(), torch.get_rng_state()
    torch.manual_seed(1)
    np.random.seed(1)
    module = build_deferred(make)
    assert blocks.differing(blocks.named(module), blocks.named(ordinary)) == []
    assert torch.equal(torch.get_rng_state(), after)
    assert deferred_record(module) is None
    assert getattr(module, "noise", 0) == getattr(ordinary, "noise", 0)
    assert [record.levelname for record in caplog.records] == ["WARNING"]
    assert said in caplog.text


def test_generators_of_its_own_are_put_back() -> None:
    own = torch.Generator().manual_seed(5)
    expected = torch.rand(4, generator=torch.Generator().manual_seed(5))

    def make() -> nn.Module:
        module = nn.Module()
        module.weight = nn.Parameter(torch.rand(4, generator=own))
        module.weight.detach().numpy()
        return module

    assert torch.equal(build_deferred(make).get_parameter("weight"), expected)


def test_weights_that_are_read_in_the_constructor_are_kept() -> None:
    torch.save(Small().state_dict(), "weights.pt")
    module = build_deferred(FromAFile)
    fill(module)
    expected = torch.load(Path("weights.pt"), weights_only=True)
    assert blocks.differing(blocks.named(module), expected) == []


class Small(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(2, 2)


def test_errors_of_the_constructor_are_its_own() -> None:
    def broken() -> nn.Module:
        raise KeyError("no such size")

    with pytest.raises(KeyError, match="no such size"):
        build_deferred(broken)


def test_nothing_stays_behind() -> None:
    assert build_deferred(lambda: nn.Linear(2, 2)).weight.is_meta
    assert not nn.Linear(2, 2).weight.is_meta
    assert nn.Linear(2, 2).weight.detach().numpy().shape == (2, 2)
