"""Distillation against its formula, torch's own divergence, and the limit of a high temperature."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from trustformers_pl.continual.distillation import der_loss, lwf_loss


@pytest.fixture(autouse=True)
def _seed() -> None:
    torch.manual_seed(0)


def normal(*shape: int) -> Tensor:
    return torch.randn(*shape, dtype=torch.double)


def test_lwf_is_the_papers_formula() -> None:
    """Equations 2 and 3 of Li & Hoiem: probabilities to the power 1/T, normalised again; times T^2."""
    new, old, temperature = normal(4, 6), normal(4, 6), 2.0
    known = torch.tensor([True, False, True, True, False, False])
    wanted = 0.0
    for z, y in zip(new, old, strict=True):
        indices = [0, 2, 3]
        p = [math.exp(y[i]) / sum(math.exp(y[j]) for j in indices) for i in indices]
        q = [math.exp(z[i]) / sum(math.exp(z[j]) for j in indices) for i in indices]
        p, q = ([v ** (1 / temperature) / sum(u ** (1 / temperature) for u in one) for v in one] for one in (p, q))
        wanted -= temperature**2 * sum(a * math.log(b) for a, b in zip(p, q, strict=True))
    found, count = lwf_loss(new, old, known, temperature=temperature)
    assert found.item() == pytest.approx(wanted, rel=1e-13)
    assert count == 4


@pytest.mark.parametrize("shape", [(5,), (3, 4)])
def test_lwf_has_the_gradient_of_torchs_divergence(shape: tuple[int, ...]) -> None:
    """Cross-entropy and KL divergence differ by the old network's entropy, a constant."""
    new, old = normal(*shape, 7).requires_grad_(), normal(*shape, 4).requires_grad_()
    found, count = lwf_loss(new, old, temperature=3.0)
    part = new[..., :4]
    divergence = F.kl_div((part / 3).log_softmax(-1), (old / 3).softmax(-1).detach(), reduction="sum") * 9
    assert count == math.prod(shape)
    torch.testing.assert_close(torch.autograd.grad(found, new)[0], torch.autograd.grad(divergence, new)[0])
    assert torch.autograd.grad(lwf_loss(new, old)[0], old, allow_unused=True) == (None,)


def test_at_a_high_temperature_gradients_are_those_of_matching_logits() -> None:
    """Hinton et al. 2015, equation 4: (z - v) / C for logits of mean zero; it needs the factor T^2."""
    new, old = normal(4, 5), normal(4, 5)
    new, old = (new - new.mean(1, keepdim=True)).requires_grad_(), old - old.mean(1, keepdim=True)
    (found,) = torch.autograd.grad(lwf_loss(new, old, temperature=1e4)[0], new)
    torch.testing.assert_close(found, (new.detach() - old) / 5, rtol=1e-3, atol=1e-3)


def test_lwf_leaves_out_ignored_positions_and_weighs_samples() -> None:
    new, old = normal(2, 3, 4), normal(2, 3, 4)
    labels = torch.tensor([[1, -100, 2], [-100, -100, 0]])
    weights = torch.tensor([2.0, 0.5], dtype=torch.double)
    found, count = lwf_loss(new, old, labels=labels, sample_weights=weights)
    each = [[lwf_loss(new[n, t][None], old[n, t][None])[0] for t in range(3)] for n in range(2)]
    assert count == 3
    torch.testing.assert_close(found, 2 * (each[0][0] + each[0][2]) + 0.5 * each[1][2])


def test_before_the_first_task_there_is_nothing_to_keep() -> None:
    new = normal(3, 4).requires_grad_()
    found, count = lwf_loss(new, normal(3, 0))
    assert (found.item(), count.item()) == (0, 0)
    assert not torch.autograd.grad(found, new)[0].any()


def test_half_precision_is_added_in_float32() -> None:
    new, old = normal(8, 5).half(), normal(8, 5).half()
    found, _ = lwf_loss(new, old)
    assert found.dtype == torch.float32
    torch.testing.assert_close(found.double(), lwf_loss(new.double(), old.double())[0], rtol=1e-6, atol=0)


@pytest.mark.parametrize("known", [torch.ones(3, dtype=torch.bool), torch.tensor([False, False, False, True])])
def test_masks_that_do_not_fit_are_refused(known: Tensor) -> None:
    with pytest.raises(ValueError, match="must tell of 4 outputs"):
        lwf_loss(normal(2, 4), normal(2, 3), known)


def test_a_temperature_of_zero_is_refused() -> None:
    with pytest.raises(ValueError, match="temperature"):
        lwf_loss(normal(2, 4), normal(2, 4), temperature=0)


def test_der_is_the_papers_formula() -> None:
    new, stored, weights = normal(3, 4), normal(3, 3), normal(3)
    found, count = der_loss(new, stored, weights)
    wanted = sum(weights[n] * (stored[n, i] - new[n, i]) ** 2 for n in range(3) for i in range(3))
    torch.testing.assert_close(found, wanted)
    assert count == 3
    wide, positions = der_loss(normal(3, 2, 4), normal(3, 2, 4))
    assert positions == 6
    assert wide > 0
