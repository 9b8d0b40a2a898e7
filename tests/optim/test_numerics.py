"""What all optimizers must survive: half precision, extreme gradients, ill conditioning, a resume, shards."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
from lightning import Trainer
from lightning.pytorch.plugins.environments import LightningEnvironment
from references import problem, stepped
from tiny import Data, Plain
from torch import nn
from torch.distributed.tensor import DTensor, Shard, distribute_tensor, init_device_mesh
from torch.optim import Optimizer

from trustformers_pl.optim import LAMB, SGD, Adafactor, Adam, AdamW

Make = Callable[..., Optimizer]
ALL: dict[str, Make] = {
    "sgd": lambda params, lr=0.01: SGD(params, lr, momentum=0.9, nesterov=True),
    "adam": lambda params, lr=0.01: Adam(params, lr),
    "adamw": lambda params, lr=0.01: AdamW(params, lr),
    "bert-adamw": lambda params, lr=0.01: AdamW(params, lr, correct_bias=False),
    "lamb": lambda params, lr=0.01: LAMB(params, lr),
    "adafactor": lambda params, lr=0.01: Adafactor(params, lr, beta1=0.9),
    "adafactor-paper": lambda params, lr=0.01: Adafactor(params, lr, relative_step=True, scale_parameter=True),
}
every = pytest.mark.parametrize("make", list(ALL.values()), ids=list(ALL))
wide_state = pytest.mark.parametrize("make", [ALL[name] for name in ("lamb", "adafactor")], ids=["lamb", "adafactor"])


@every
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_parameters_follow_float32_ones(make: Make, dtype: torch.dtype) -> None:
    """50 steps of the same gradients. Each step rounds to half precision: 50 half units in the last place of a weight."""
    start, gradients = problem((8, 4))
    start, gradients = start.to(dtype).double(), [gradient.to(dtype).double() for gradient in gradients]
    half = stepped(make([nn.Parameter(start.to(dtype))]), gradients)
    single = stepped(make([nn.Parameter(start.float())]), gradients)
    assert half.dtype == dtype
    assert half.isfinite().all()
    unit = torch.finfo(dtype).eps * max(1.0, single.abs().max().item())
    assert (half.float() - single).abs().max() < 25 * unit


@wide_state
def test_state_of_half_precision_parameters_is_float32_also_when_loaded(make: Make) -> None:
    _, gradients = problem((8, 4))
    optimizer = make([nn.Parameter(torch.randn(8, 4, dtype=torch.bfloat16))])
    stepped(optimizer, gradients[:3])
    loaded = make([nn.Parameter(torch.randn(8, 4, dtype=torch.bfloat16))])
    loaded.load_state_dict(copy.deepcopy(optimizer.state_dict()))
    (before,), (after,) = optimizer.state.values(), loaded.state.values()
    assert before.keys() == after.keys()
    for name, value in before.items():
        if isinstance(value, torch.Tensor):
            assert after[name].dtype == torch.float32
            assert torch.equal(after[name], value)


@every
@pytest.mark.parametrize("size", [0.0, 1e-30, 1e30])
@pytest.mark.parametrize("shape", [(3, 4), (5,)])
def test_tiny_and_huge_gradients_leave_weights_finite(make: Make, size: float, shape: tuple[int, ...]) -> None:
    """In float32, where the square of 1e30 is infinite and that of 1e-30 is 0; and ordinary ones after them."""
    torch.manual_seed(0)
    optimizer = make([nn.Parameter(torch.randn(shape))], lr=1e-3)
    directions = [torch.randn(shape) for _ in range(10)]
    assert stepped(optimizer, [size * direction for direction in directions]).isfinite().all()
    assert stepped(optimizer, directions).isfinite().all()


def test_adafactor_lives_with_rows_and_columns_without_gradients() -> None:
    """An embedding of which most rows are not used, with gradients that float32 can hardly square."""
    for size in (1e-20, 1.0, 1e10, 1e30):
        gradient = torch.zeros(6, 5)
        gradient[1, 2] = size
        moved = stepped(Adafactor([nn.Parameter(torch.zeros(6, 5))], lr=0.1), [gradient] * 3)
        assert moved.isfinite().all()
        assert moved[1, 2] < 0
        assert moved.count_nonzero() == 1


# Learning rates halve as often as the steps allow: adaptive steps do not shrink by themselves.
RATES = {
    "sgd": 5e-3,
    "adam": 0.1,
    "adamw": 0.1,
    "bert-adamw": 0.1,
    "lamb": 0.1,
    "adafactor": 0.1,
    "adafactor-paper": 0.3,
}


@pytest.mark.parametrize("name", list(ALL))
def test_an_ill_conditioned_quadratic_is_minimised(name: str) -> None:
    """f(w) = sum h (w - 1)^2 / 2 with curvatures h from 0.1 to 100, float64, cosine to 0 over 500 steps."""
    curvature = torch.logspace(-1, 2, 12, dtype=torch.float64).reshape(3, 4)
    parameter = nn.Parameter(torch.full((3, 4), 3.0, dtype=torch.float64))
    optimizer = ALL[name]([parameter], lr=RATES[name])
    for group in optimizer.param_groups:
        group["weight_decay"] = 0.0
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, 500)
    first = 0.5 * (curvature * (parameter.detach() - 1) ** 2).sum()
    for _ in range(500):
        optimizer.zero_grad()
        loss = 0.5 * (curvature * (parameter - 1) ** 2).sum()
        loss.backward()
        optimizer.step()
        schedule.step()
    assert loss < 1e-4 * first


@every
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_it_resumes_from_its_state_bit_for_bit(make: Make, dtype: torch.dtype) -> None:
    start, gradients = problem((8, 4))
    whole = stepped(make([nn.Parameter(start.to(dtype))]), gradients)
    first = make([nn.Parameter(start.to(dtype))])
    reached = stepped(first, gradients[:20]).clone()
    second = make([nn.Parameter(reached)])
    second.load_state_dict(copy.deepcopy(first.state_dict()))
    assert torch.equal(stepped(second, gradients[20:]), whole)


@every
def test_shards_are_updated_as_the_whole_is(make: Make) -> None:
    """A parameter as a DTensor, on a mesh of one process: norms and means go through DTensor's rules."""
    start, gradients = problem((8, 4))
    whole = stepped(make([nn.Parameter(start.clone())]), gradients[:5])
    torch.distributed.init_process_group("gloo", store=torch.distributed.HashStore(), rank=0, world_size=1)
    mesh = init_device_mesh("cpu", (1,))
    optimizer = make([nn.Parameter(distribute_tensor(start.clone(), mesh, [Shard(0)]))])
    sharded: Any = stepped(optimizer, [distribute_tensor(g, mesh, [Shard(0)]) for g in gradients[:5]])
    assert isinstance(sharded, DTensor)
    torch.testing.assert_close(sharded.full_tensor(), whole, rtol=1e-12, atol=1e-12)
    (state,) = optimizer.state.values()
    assert all(isinstance(value, DTensor) for name, value in state.items() if name != "step")


@every
def test_a_closure_is_called_and_its_loss_returned(make: Make) -> None:
    parameter = nn.Parameter(torch.ones(2, 2))
    optimizer = make([parameter])

    def closure() -> torch.Tensor:
        optimizer.zero_grad()
        loss = (parameter**2).sum()
        loss.backward()
        return loss

    assert optimizer.step(closure).item() == 4.0  # type: ignore[union-attr]
    assert (parameter < 1).all()


@every
def test_in_a_stock_trainer(make: Make) -> None:
    """Loss on 32 samples after 4 epochs, against the loss before."""

    class Ours(Plain):
        def configure_optimizers(self) -> Optimizer:
            return make(self.parameters(), lr=0.02)

    torch.manual_seed(0)
    module = Ours()
    x, y = Data().train_dataloader().dataset[:]
    before = ((module.layer(x) - y) ** 2).mean().item()
    quiet = {"logger": False, "enable_checkpointing": False, "enable_progress_bar": False}
    Trainer(max_epochs=4, accelerator="cpu", plugins=[LightningEnvironment()], **quiet).fit(module, datamodule=Data())
    assert ((module.layer(x) - y) ** 2).mean().item() < before


@pytest.mark.parametrize(
    "refused",
    [
        lambda p: LAMB(p, lr=-1.0),
        lambda p: LAMB(p, betas=(0.9, 1.0)),
        lambda p: Adafactor(p, clip=0.0),
        lambda p: Adafactor(p, beta2_decay=0.8),
        lambda p: Adafactor(p, eps=(0.0, 1e-3)),
        lambda p: SGD(p, nesterov=True),  # torch's own message
    ],
)
def test_impossible_values_are_refused(refused: Make) -> None:
    with pytest.raises(ValueError, match=r"must|Nesterov momentum requires"):
        refused([nn.Parameter(torch.zeros(1))])


@wide_state
def test_sparse_gradients_are_refused(make: Make) -> None:
    parameter = nn.Parameter(torch.zeros(3, 2))
    parameter.grad = torch.eye(3, 2).to_sparse()
    with pytest.raises(ValueError, match="dense real gradients"):
        make([parameter]).step()
