"""The method against the paper's formula and the normal distribution."""

from __future__ import annotations

import pytest
import torch

from trustformers_pl_example.noise import add_noise_, standard_deviation


@pytest.mark.parametrize(("step", "variance"), [(0, 0.3), (9, 0.3 / 3.54813389), (99, 0.3 / 12.5892541)])
def test_the_deviation_is_the_papers(step: int, variance: float) -> None:
    """By hand: sigma_t^2 = eta / (1 + t)^gamma, with 10^0.55 = 3.54813389 and 100^0.55 = 10^1.1 = 12.5892541."""
    assert standard_deviation(step, eta=0.3, gamma=0.55) ** 2 == pytest.approx(variance, rel=1e-8)


def parameter(*shape: int, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    made = torch.ones(shape, dtype=dtype, requires_grad=True)
    made.grad = torch.zeros(shape, dtype=dtype)
    return made


def noise(shape: tuple[int, ...] = (1000, 1000), seed: int = 0, step: int = 0) -> torch.Tensor:
    made = parameter(*shape)
    add_noise_([made], 2.0, seed=seed, step=step)
    assert made.grad is not None
    return made.grad


def test_the_noise_is_normal() -> None:
    """Moments of N(0, 2^2): 0, 4, 0 and 3 * 4^2 = 48; a million draws give them to 5 of their standard errors."""
    drawn = noise().double()
    expected = {1: (0.0, 0.002), 2: (4.0, 0.0057), 3: (0.0, 0.031), 4: (48.0, 0.157)}
    for power, (moment, standard_error) in expected.items():
        assert drawn.pow(power).mean().item() == pytest.approx(moment, abs=5 * standard_error)


def test_the_noise_is_of_the_seed_and_the_step_alone() -> None:
    before = torch.random.get_rng_state()
    assert torch.equal(noise((8, 8)), noise((8, 8)))
    assert torch.equal(torch.random.get_rng_state(), before)
    others = [noise((8, 8), seed=1), noise((8, 8), step=1)]
    assert not any(torch.equal(noise((8, 8)), other) for other in others)


def test_parameters_get_their_own_noise_and_those_without_a_gradient_none() -> None:
    first, without, last = parameter(8), torch.ones(8, requires_grad=True), parameter(8)
    add_noise_([first, without, last], 1.0, seed=0, step=0)
    assert without.grad is None
    assert first.grad is not None
    assert last.grad is not None
    assert not torch.equal(first.grad, last.grad)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64])
def test_every_precision_gets_the_same_noise(dtype: torch.dtype) -> None:
    made = parameter(1000, 1000, dtype=dtype)
    add_noise_([made], 2.0, seed=0, step=0)
    assert made.grad is not None
    assert made.grad.dtype == dtype
    torch.testing.assert_close(made.grad, noise().to(dtype))
