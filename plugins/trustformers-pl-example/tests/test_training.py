"""The feature at work: in a stock Trainer, and from its recipe."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
import trustformers_pl as tfpl
from lightning.pytorch import Callback, Trainer
from lightning.pytorch.demos.boring_classes import BoringModel

from trustformers_pl_example.callback import GradientNoise
from trustformers_pl_example.noise import add_noise_, standard_deviation

RECIPE = Path(__file__).parent.parent / "examples" / "gradient_noise.yaml"


class Spy(Callback):
    """Keeps the gradients as they are when its turn comes."""

    def __init__(self) -> None:
        self.seen: list[list[torch.Tensor]] = []

    def on_before_optimizer_step(self, trainer: Any, pl_module: Any, optimizer: Any) -> None:
        self.seen.append([p.grad.clone() for p in pl_module.parameters()])


def test_in_a_stock_trainer_each_step_gets_its_noise(tmp_path: Path) -> None:
    before, after = Spy(), Spy()
    callbacks: list[Callback] = [before, GradientNoise(eta=0.3, seed=7), after]
    trainer = Trainer(
        max_steps=3,
        accelerator="cpu",
        callbacks=callbacks,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        default_root_dir=tmp_path,
    )
    trainer.fit(BoringModel())
    assert len(after.seen) == 3
    for step, (plain, noisy) in enumerate(zip(before.seen, after.seen, strict=True)):
        expected = [gradient.clone().requires_grad_() for gradient in plain]
        for parameter, gradient in zip(expected, plain, strict=True):
            parameter.grad = gradient.clone()
        add_noise_(expected, standard_deviation(step, eta=0.3, gamma=0.55), seed=7, step=step)
        for parameter, found in zip(expected, noisy, strict=True):
            assert parameter.grad is not None
            assert torch.equal(parameter.grad, found)


def train(tmp_path: Path, *overrides: str) -> tfpl.Run:
    (tmp_path / "text").mkdir()
    (tmp_path / "text" / "a.txt").write_text("to be or not to be\n" * 2000)
    small = ["trainer.max_steps=4", "trainer.val_check_interval=2", "trainer.limit_val_batches=1"]
    folders = [f"data.init_args.folder={tmp_path / 'text'}", f"trainer.default_root_dir={tmp_path / 'run'}"]
    run = tfpl.assemble(RECIPE, [*small, *folders, *overrides])
    run.fit()
    return run


def test_the_recipe_trains_and_tells_what_the_feature_did(tmp_path: Path) -> None:
    """By hand: the variance of step 3 is 0.01 / 4^0.55 = 0.01 / 2.1435 = 0.0683^2."""
    run = train(tmp_path, "gradient_noise.eta=0.01")
    assert run.trainer.global_step == 4
    assert run.probe()["gradient_noise"] == "noise of standard deviation 0.0683"
    assert "went from 0.1 to 0.0683" in (tmp_path / "run" / "report.md").read_text()


def test_without_noise_nothing_is_told(tmp_path: Path) -> None:
    run = train(tmp_path, "gradient_noise.eta=0.0")
    assert run.probe()["gradient_noise"] is None
    assert "Gradient noise" not in (tmp_path / "run" / "report.md").read_text()


@pytest.mark.parametrize("value", ["eta=-1.0", "gamma=-1.0", "eta=.nan", "gamma=.inf"])
def test_what_is_no_variance_is_refused(value: str) -> None:
    with pytest.raises(tfpl.errors.RecipeError, match="eta and gamma must be finite and not negative"):
        tfpl.assemble(RECIPE, [f"gradient_noise.{value}"])
