"""The norm of gradients and clipping by it: bit for bit what torch.nn.utils gives."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from trustformers_pl.gradients import clip_by_norm, of_one_kind, total_norm


def parameters(dtypes: list[torch.dtype]) -> list[Tensor]:
    generator = torch.Generator().manual_seed(0)
    made = [torch.zeros(3 + 50 * n, 7, dtype=dtype) for n, dtype in enumerate(dtypes)]
    for one in made:
        one.grad = torch.randn(one.shape, generator=generator).to(one)
    return [*made, torch.zeros(2)]  # the last one without a gradient


class Own(torch.Tensor):
    """Not a plain tensor."""


KINDS: dict[str, Any] = {
    "one": lambda: parameters([torch.float32] * 5),
    "double": lambda: parameters([torch.float64] * 2),
    "mixed": lambda: parameters([torch.float32, torch.float64, torch.float32]),
    "none": lambda: parameters([]),
}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("highest", [0.5, 1e6])
def test_both_are_torchs(kind: str, highest: float) -> None:
    ours, theirs = KINDS[kind](), KINDS[kind]()
    norm = total_norm([one.grad for one in ours if one.grad is not None])
    clip_by_norm(ours, highest, norm)
    expected = torch.nn.utils.clip_grad_norm_(theirs, highest)
    assert torch.equal(norm, expected)
    assert not norm.requires_grad
    for one, other in zip(ours, theirs, strict=True):
        assert (one.grad is None) == (other.grad is None)
        assert one.grad is None or torch.equal(one.grad, other.grad)  # type: ignore[arg-type]


def test_what_is_of_one_kind() -> None:
    one, other = torch.zeros(2), torch.zeros(3)
    assert of_one_kind([one, other])
    assert not of_one_kind([one, other.double()])
    assert not of_one_kind([one, torch.zeros(2).as_subclass(Own)])
    assert not of_one_kind([one, torch.zeros(2, device="meta")])
    assert not of_one_kind([torch.zeros(2, device="meta")])


def test_a_graph_on_the_gradients_is_not_recorded_further() -> None:
    weight = torch.ones(3, requires_grad=True)
    (gradient,) = torch.autograd.grad((weight**3).sum(), weight, create_graph=True)
    assert gradient.requires_grad
    assert not total_norm([gradient]).requires_grad
