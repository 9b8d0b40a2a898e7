"""AdamW and its groups, against the paper's algorithm in float64."""

from __future__ import annotations

import pytest
import torch
from lightning import LightningModule, Trainer
from lightning.pytorch.plugins.environments import LightningEnvironment
from tiny import Data, Plain
from torch import nn

from trustformers_pl.optim import AdamW, decay_groups


def reference(weight: torch.Tensor, gradients: list[torch.Tensor], lr: float, decay: float) -> torch.Tensor:
    """Loshchilov & Hutter 2019, algorithm 2, line by line, with schedule multiplier 1 and decay scaled by lr."""
    beta1, beta2, eps = 0.9, 0.95, 1e-8
    m, v, theta = torch.zeros_like(weight), torch.zeros_like(weight), weight.clone()
    for t, g in enumerate(gradients, 1):
        m = beta1 * m + (1 - beta1) * g
        v = beta2 * v + (1 - beta2) * g**2
        m_hat, v_hat = m / (1 - beta1**t), v / (1 - beta2**t)
        theta = theta - (lr * m_hat / (v_hat.sqrt() + eps) + lr * decay * theta)
    return theta


@pytest.mark.parametrize("scale", [1.0, 1e-6, 1e6])
def test_fifty_steps_are_the_papers(scale: float) -> None:
    generator = torch.Generator().manual_seed(0)
    start = torch.randn(7, 5, generator=generator, dtype=torch.float64)
    gradients = [scale * torch.randn(7, 5, generator=generator, dtype=torch.float64) for _ in range(50)]
    parameter = nn.Parameter(start.clone())
    optimizer = AdamW([parameter], lr=0.01, betas=(0.9, 0.95), weight_decay=0.1)
    assert optimizer.param_groups[0]["fused"]
    for gradient in gradients:
        parameter.grad = gradient.clone()
        optimizer.step()
    torch.testing.assert_close(parameter.detach(), reference(start, gradients, 0.01, 0.1), rtol=1e-10, atol=1e-12)


def test_float32_stays_near_the_float64_reference() -> None:
    generator = torch.Generator().manual_seed(0)
    start = torch.randn(64, generator=generator)
    gradients = [torch.randn(64, generator=generator) for _ in range(50)]
    parameter = nn.Parameter(start.clone())
    optimizer = AdamW([parameter], lr=0.01, betas=(0.9, 0.95), weight_decay=0.1)
    for gradient in gradients:
        parameter.grad = gradient.clone()
        optimizer.step()
    expected = reference(start.double(), [gradient.double() for gradient in gradients], 0.01, 0.1)
    torch.testing.assert_close(parameter.detach().double(), expected, rtol=1e-5, atol=1e-6)


def test_matrices_decay_and_vectors_do_not() -> None:
    module = nn.Sequential(nn.Embedding(3, 4), nn.LayerNorm(4), nn.Linear(4, 3))
    module[2].weight = module[0].weight  # tied: stands once
    module[1].weight.requires_grad_(False)
    groups = decay_groups(module, weight_decay=0.3)
    named = [([name for name, _ in group["params"]], group["weight_decay"]) for group in groups]
    assert named == [(["0.weight"], 0.3), (["1.bias", "2.bias"], 0.0)]
    assert decay_groups(nn.LayerNorm(3), weight_decay=0.3)[0]["weight_decay"] == 0.0
    assert AdamW(groups).param_groups[1]["weight_decay"] == 0.0


def test_an_impossible_value_is_refused() -> None:
    with pytest.raises(ValueError, match="Invalid learning rate"):
        AdamW([nn.Parameter(torch.zeros(1))], lr=-1.0)


def test_in_a_stock_trainer() -> None:
    class Ours(Plain):
        def configure_optimizers(self) -> torch.optim.Optimizer:
            return AdamW(decay_groups(self, weight_decay=0.1), lr=0.1)

    class Torchs(Plain):
        def configure_optimizers(self) -> torch.optim.Optimizer:
            decayed, plain = [self.layer.weight], [self.layer.bias]
            groups = [{"params": decayed, "weight_decay": 0.1}, {"params": plain, "weight_decay": 0.0}]
            return torch.optim.AdamW(groups, lr=0.1, fused=True)

    def train(cls: type[LightningModule]) -> torch.Tensor:
        torch.manual_seed(0)
        module = cls()
        quiet = {"logger": False, "enable_checkpointing": False, "enable_progress_bar": False}
        trainer = Trainer(max_steps=8, accelerator="cpu", plugins=[LightningEnvironment()], **quiet)
        trainer.fit(module, datamodule=Data(shuffle=False))
        return module.layer.weight.detach()  # type: ignore[union-attr,operator,return-value]

    assert torch.equal(train(Ours), train(Torchs))
