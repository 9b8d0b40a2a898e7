"""Synaptic intelligence and memory aware synapses, against their papers' sums written out."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
import torch
from per_sample_cases import Case, gpt, images, mlp, odd, sequence
from torch import nn
from torch.distributed.tensor import DTensor, Shard, distribute_tensor, init_device_mesh
from torch.nn import functional as F

from trustformers_pl.continual.mas import answer_sensitivity, squared_norms
from trustformers_pl.continual.si import PathIntegral

if TYPE_CHECKING:
    from collections.abc import Callable


pytestmark = pytest.mark.usefixtures("double")


@pytest.mark.parametrize("make", [mlp, sequence, images, gpt, odd])
def test_mas_equals_a_loop_over_samples(make: Callable[[], Case]) -> None:
    """Aljundi et al. 2018, equation 2: the mean of absolute gradients, each by autograd."""
    module, batch = make()
    found, samples = answer_sensitivity(module, [batch, batch])
    module.eval()
    assert samples == 2 * len(batch["labels"])
    for name, parameter in module.named_parameters():
        wanted = torch.zeros_like(parameter)
        for n in range(len(batch["labels"])):
            norm = (module({key: value[n : n + 1] for key, value in batch.items()}) ** 2).sum()
            (gradient,) = torch.autograd.grad(norm, parameter, allow_unused=True)
            wanted += 0 if gradient is None else gradient.abs()
        torch.testing.assert_close(found[name], 2 * wanted, rtol=1e-11, atol=1e-13)


def test_mas_of_a_linear_layer_is_its_closed_form() -> None:
    """d ||W x||^2 / d W_oi = 2 (W x)_o x_i."""
    layer, x = nn.Linear(3, 2, bias=False), torch.randn(5, 3)
    found, _ = answer_sensitivity(layer, [x])
    torch.testing.assert_close(found["weight"], 2 * layer(x).abs().T @ x.abs())
    assert squared_norms(torch.ones(2, 3, 4)).tolist() == [12, 12]


def trained(damping: float) -> tuple[list[torch.Tensor], list[torch.Tensor], float, float]:
    """Importances and omega of 400 small steps on a problem of least squares, with its loss before and after."""
    x, y = torch.randn(40, 3), torch.randn(40)
    w = [nn.Parameter(torch.zeros(3)), nn.Parameter(torch.zeros(()))]
    optimizer = torch.optim.Adam(w, 1e-3)
    path = PathIntegral.at(w)

    def loss() -> torch.Tensor:
        return F.mse_loss(x @ w[0] + w[1], y)

    first = loss().item()
    for _ in range(400):
        optimizer.zero_grad()
        loss().backward()
        optimizer.step()
        path.add_([one.grad for one in w], w)
    return path.importance(w, damping=damping), path.omega, first, loss().item()


def test_si_sums_up_to_the_fall_of_the_loss() -> None:
    """Zenke et al. 2017, equations 2 and 3: a line integral of the gradient, whatever the optimizer.

    The sum over steps errs by half a step's curvature: some 0.5 % here.
    """
    _, omega, first, last = trained(0.1)
    assert first - last > 0.02
    assert sum(one.sum() for one in omega).item() == pytest.approx(first - last, rel=0.02)


def test_si_divides_by_the_squared_way() -> None:
    """Equation 5 by hand, on two steps: of a weight whose way raised the loss the importance is 0."""
    w = [torch.tensor([1.0, 2.0, 3.0])]
    path = PathIntegral.at(w)
    w[0] += torch.tensor([0.5, -0.1, 0.2])
    path.add_([torch.tensor([-2.0, 3.0, 1.0])], w)
    w[0] += torch.tensor([0.5, -0.1, 0.0])
    path.add_([torch.tensor([-1.0, 1.0, 1.0])], w)
    (found,) = path.importance(w, damping=0.1)
    torch.testing.assert_close(path.omega[0], torch.tensor([1.5, 0.4, -0.2]))
    torch.testing.assert_close(found, torch.tensor([1.5 / 1.1, 0.4 / 0.14, 0.0]))


def test_si_of_half_precision_is_added_in_float32() -> None:
    w = [torch.ones(2, dtype=torch.bfloat16)]
    path = PathIntegral.at(w)
    w[0] += 0.5
    path.add_([torch.full((2,), -1e-3, dtype=torch.bfloat16)], w)
    assert path.omega[0].dtype == torch.float32
    torch.testing.assert_close(path.omega[0].double(), torch.full((2,), 5e-4), rtol=4e-3, atol=0)


def test_si_is_the_same_on_shards() -> None:
    torch.distributed.init_process_group("gloo", rank=0, world_size=1, store=torch.distributed.HashStore())
    mesh = init_device_mesh("cpu", (1,))
    start, end, gradient = (torch.randn(4, 3) for _ in range(3))

    def importance(lay: Callable[[torch.Tensor], torch.Tensor]) -> torch.Tensor:
        path = PathIntegral.at([lay(start)])
        path.add_([lay(gradient)], [lay(end)])
        (found,) = path.importance([lay(end)])
        return found

    found = importance(lambda x: distribute_tensor(x, mesh, [Shard(0)]))
    assert isinstance(found, DTensor)
    torch.testing.assert_close(found.full_tensor(), importance(torch.clone))
