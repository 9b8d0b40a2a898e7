"""SGD with momentum where some weights begin later than others: torch's fused kernel knows no such step."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from trustformers_pl.optim import SGD


@pytest.mark.parametrize("dampening", [0.0, 0.5])
def test_weights_of_one_group_may_begin_in_different_steps(dampening: float) -> None:
    torch.manual_seed(0)
    start, gradients = torch.randn(2, 3), torch.randn(4, 2, 3)
    ours, plain = ([nn.Parameter(row.clone()) for row in start] for _ in range(2))
    # Source: torch's own loop over parameters, which begins each by itself.
    theirs = torch.optim.SGD(plain, lr=0.1, momentum=0.9, dampening=dampening, foreach=False)
    optimizer = SGD(ours, lr=0.1, momentum=0.9, dampening=dampening)
    for step, gradient in enumerate(gradients):
        for parameters in (ours, plain):
            for index, parameter in enumerate(parameters):
                parameter.grad = gradient[index].clone() if step >= 2 * index else None
        optimizer.step()
        theirs.step()
        assert optimizer.param_groups[0]["fused"] is True
    for one, other in zip(ours, plain, strict=True):
        torch.testing.assert_close(one, other)
