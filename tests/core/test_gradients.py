"""The gradient order: any split of a batch gives the same weights, under scaling, skipping and fused optimizers too."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest
import tiny
import torch
from lightning import Callback, LightningModule, Trainer
from ranks import on_ranks
from torch import nn

from trustformers_pl.environment import cluster_environment
from trustformers_pl.errors import NonFiniteError, PluginError, RefusedError
from trustformers_pl.factory import assemble
from trustformers_pl.gradients import GradientOrder, GradientPhase, GradientStep
from trustformers_pl.loop import exact_loop
from trustformers_pl.precision_order import OrderedPrecision

sys.path.insert(0, str(Path(__file__).parent))
import split_job

QUIET = {"logger": False, "enable_checkpointing": False, "enable_progress_bar": False, "enable_model_summary": False}


@pytest.mark.parametrize("micro", [1, 2, 4, 8, 16])
def test_micro_batches_give_the_weights_of_whole_batches(micro: int) -> None:
    """Expected: `split_job.reference`, plain torch over the mean of each whole batch."""
    assert split_job.train(micro) == pytest.approx(split_job.reference(), abs=1e-6)


@pytest.mark.parametrize("ranks", [2, 4])
def test_ranks_give_the_weights_of_one_process(ranks: int) -> None:
    """The same reference, on real gloo ranks, each also accumulating."""
    job = Path(__file__).parent / "split_job.py"
    code = f"import sys, runpy; sys.argv[1:] = ['1', '2', '4']; runpy.run_path({str(job)!r}, run_name='__main__')"
    expected = split_job.reference()
    for output in on_ranks(ranks, code):
        for found in json.loads(output.splitlines()[-1]):
            assert found == pytest.approx(expected, abs=1e-6)


def test_ranks_with_unequal_counts_agree_without_loss_terms_too() -> None:
    """Without terms no count is exchanged before the window closes; the ranks must still divide alike."""
    job = Path(__file__).parent / "split_job.py"
    code = f"import os, sys, runpy; os.environ['SPLIT_JOB_TERMS'] = '0'; sys.argv[1:] = ['1', '4']; runpy.run_path({str(job)!r}, run_name='__main__')"
    expected = split_job.reference(terms=False)
    for output in on_ranks(2, code):
        for found in json.loads(output.splitlines()[-1]):
            assert found == pytest.approx(expected, abs=1e-6)


class Fit:
    """A stock Trainer with nothing of ours but the precision and the loop."""

    def __init__(self, precision: OrderedPrecision, module: LightningModule, **more: Any) -> None:
        arguments = {"accelerator": "cpu", "max_steps": 4, **QUIET, **more}
        self.trainer = Trainer(plugins=[cluster_environment(), precision], **arguments)
        exact_loop(self.trainer).fit(module, datamodule=tiny.Data(shuffle=False))


class Watched(tiny.Composable):
    """Its loss is infinite at step `bad`; the optimizer is fused."""

    def __init__(self, bad: int = -1) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.layer = nn.Linear(4, 1)
        self.bad = bad

    def loss(self, outputs: torch.Tensor, batch: Any) -> tuple[torch.Tensor, torch.Tensor]:
        total, count = super().loss(outputs, batch)
        return total * (float("inf") if self.trainer.global_step == self.bad else 1.0), count

    def configure_optimizers(self) -> Any:
        optimizer = torch.optim.AdamW(self.parameters(), lr=0.1, fused=True)
        schedule = torch.optim.lr_scheduler.StepLR(optimizer, step_size=1, gamma=0.5)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}


def test_every_phase_is_called_in_order_with_hooks_after_the_penalties() -> None:
    seen: list[str] = []

    def rule(name: str) -> Any:
        return lambda step: seen.append(name)

    class Hooks(Callback):
        def on_before_optimizer_step(self, *arguments: Any) -> None:
            seen.append("hook")

        def on_after_backward(self, *arguments: Any) -> None:
            seen.append("backward")

    rules = {phase: [rule(phase), rule(f"{phase} again")] for phase in ("ema", "clip", "finite", "penalties", "sync")}
    Fit(OrderedPrecision(rules=rules), Watched(), max_steps=1, callbacks=[Hooks()])
    order = ["sync", "penalties", "finite", "clip", "ema"]
    expected = [name for phase in order for name in (phase, f"{phase} again")]
    expected.insert(expected.index("finite"), "hook")
    assert seen == ["backward", *expected]


def test_rules_see_unscaled_gradients_and_a_fused_optimizer_takes_them() -> None:
    """Expected: the gradients and weights of the run without a scaler."""
    seen: list[list[torch.Tensor]] = [[], []]
    modules = [Watched(), Watched()]
    for module, found, scaler in zip(
        modules, seen, (None, torch.amp.GradScaler("cpu", init_scale=2.0**10)), strict=True
    ):
        rules = {"penalties": [lambda step, found=found: found.extend(g.clone() for g in step.gradients)]}
        Fit(OrderedPrecision(rules=rules, scaler=scaler), module, gradient_clip_val=0.5)
    assert all(torch.equal(a, b) for a, b in zip(*seen, strict=True))
    assert torch.equal(modules[0].layer.weight, modules[1].layer.weight)


def test_an_overflow_skips_the_step_the_schedule_and_the_average_and_halves_the_scale() -> None:
    averaged: list[int] = []
    scaler = torch.amp.GradScaler("cpu", init_scale=1024.0)
    rules = {"ema": [lambda step: averaged.append(step.module.trainer.global_step)]}
    module, precision = Watched(bad=1), OrderedPrecision(rules=rules, scaler=scaler)
    before: list[torch.Tensor] = []

    class Keep(Callback):
        def on_train_batch_end(self, trainer: Trainer, pl_module: Watched, *rest: Any) -> None:
            before.append(pl_module.layer.weight.detach().clone())

    fit = Fit(precision, module, callbacks=[Keep()])
    assert torch.equal(before[0], before[1])
    assert not torch.equal(before[1], before[2])
    assert len(averaged) == 3
    assert scaler.get_scale() == 512.0
    assert fit.trainer.lr_scheduler_configs[0].scheduler.last_epoch == 3  # type: ignore[union-attr]
    assert torch.isfinite(module.layer.weight).all()


def test_without_a_scaler_the_run_stops_before_the_weights_are_touched() -> None:
    module = Watched(bad=2)
    with pytest.raises(
        NonFiniteError, match=r"optimizer step 3: the gradients of layer\.weight, layer\.bias are not finite"
    ):
        Fit(OrderedPrecision(), module)
    assert torch.isfinite(module.layer.weight).all()


def test_a_rule_may_decide_what_happens_to_what_is_not_finite() -> None:
    def skip(step: GradientStep) -> None:
        step.skip = not step.finite

    module = Watched(bad=2)
    Fit(OrderedPrecision(rules={"finite": [skip]}), module)
    assert torch.isfinite(module.layer.weight).all()


@pytest.mark.parametrize("precision", ["32-true", "bf16-mixed", "16-mixed", "64-true", "bf16-true"])
def test_every_precision_trains(precision: str) -> None:
    """Expected: float32's weights, to the precision's own resolution."""
    module, expected = Watched(), Watched()
    # The default first scale of 65536 overflows float16 here and is halved first, skipping steps; 128 does not.
    scaler = torch.amp.GradScaler("cpu", init_scale=128.0) if precision == "16-mixed" else None
    Fit(OrderedPrecision(precision, scaler=scaler), module)
    Fit(OrderedPrecision(), expected)
    assert torch.allclose(module.layer.weight.float(), expected.layer.weight, atol=0.02)


def test_what_has_no_gradient_order_is_refused() -> None:
    with pytest.raises(RefusedError, match="precision 'transformer-engine' has no gradient order"):
        OrderedPrecision("transformer-engine")
    with pytest.raises(
        ValueError, match="the gradient phase 'divide' takes no rules; use sync, penalties, finite, clip"
    ):
        GradientOrder({"divide": [lambda step: None]})
    with pytest.raises(ValueError, match="'later' is not a valid GradientPhase"):
        GradientOrder({"later": [lambda step: None]})
    assert [phase.value for phase in GradientPhase][:3] == ["sync", "unscale", "divide"]


PLUGINS = """
    from trustformers_pl import Plugin, hookimpl, part
    def add(amount):
        def rule(step):
            for gradient in step.gradients:
                gradient.add_(amount)
        return rule
    def triple():
        def rule(step):
            for gradient in step.gradients:
                gradient.mul_(3)
        return rule
    class Adds(Plugin):
        "Adds one to every gradient."
        @hookimpl
        def gradient(self, plan, phase):
            return [part("rules_pack:add", 1.0)] if phase == "penalties" else None
    class Triples(Plugin):
        "Triples every gradient."
        @hookimpl
        def gradient(self, plan, phase):
            return [part("rules_pack:triple")] if phase == "sync" else None
    class Wrong(Plugin):
        "Has a rule where none can be."
        @hookimpl
        def gradient(self, plan, phase):
            return [part("rules_pack:triple")] if phase == "step" else None
"""


def test_two_plugins_that_would_clash_without_phases(write: Any, install: Any) -> None:
    """`aaa` sorts before `zzz`, but adds in a later phase: (3 g) + 1, not 3 (g + 1)."""
    install("rules-pack", PLUGINS, trustformers_pl={"aaa": "Adds", "zzz": "Triples", "wrong": "Wrong"})
    run = assemble(write(more="aaa: {}\nzzz: {}\n"), ["trainer.max_steps=1", "optimizer.lr=0.0"])
    plain = assemble(write(), ["trainer.max_steps=1", "optimizer.lr=0.0"])
    run.fit("never")
    plain.fit("never")
    both = zip(run.module.parameters(), plain.module.parameters(), strict=True)
    assert all(torch.allclose(a.grad, 3 * b.grad + 1) for a, b in both)  # type: ignore[operator,arg-type]
    with pytest.raises(PluginError, match="plugin 'wrong' has a rule for the gradient phase 'step', which takes none"):
        assemble(write(more="wrong: {}\n"))


WEIGHTS = """
    from trustformers_pl import Plugin, SampleWeights, hookimpl
    def first_only(module, batch):
        weights = batch[0].new_zeros(len(batch[0]))
        weights[0] = 4.0
        return weights
    def halves(module, batch):
        return batch[0].new_full((len(batch[0]),), 0.5)
    class First(Plugin):
        "Looks at the first sample only."
        @hookimpl
        def sample_weights(self, plan):
            return [SampleWeights("first", first_only)]
    class Half(Plugin):
        "Halves."
        @hookimpl
        def sample_weights(self, plan):
            return [SampleWeights("half", halves)]
"""


def test_sample_weights_are_multiplied_and_reach_the_loss(write: Any, install: Any) -> None:
    install("weights-pack", WEIGHTS, trustformers_pl={"first": "First", "half": "Half"})
    text = Path(write()).read_text().replace("tiny.Composable", "tiny.Weighable")
    module = assemble(write(text, "first: {}\nhalf: {}\n")).module
    batch = [torch.ones(4, 4), torch.zeros(4, 1)]
    result = module.training_step(batch, 0)
    # By hand: the weights are 4 * 0.5 for the first sample and 0 for the others, over 4 samples.
    expected = 2 * (module.layer(batch[0])[0, 0] ** 2) / 4  # type: ignore[operator]
    assert torch.allclose(result["loss_sum"] / result["count"], expected)
    said = r"recipe\.yaml:10: first needs sample-weights, which Composable does not provide; let the module's `loss"
    with pytest.raises(RefusedError, match=said):
        assemble(write(more="first: {}\n"))


def test_ranks_from_a_recipe(write: Any) -> None:
    """`ddp` in a recipe on two real ranks: equal weights on both, and a mesh that does not fit is refused."""
    recipe = Path(write(more="ddp: {}\n")).resolve()
    code = f"""
    import torch
    from trustformers_pl import assemble
    run = assemble({str(recipe)!r}, ["trainer.devices=2", "trainer.default_root_dir={recipe.parent / "run"}"])
    run.fit()
    print([p.tolist() for p in run.module.parameters()])
    """
    first, second = on_ranks(2, code)
    assert first == second
    assert (recipe.parent / "run" / "recipe.yaml").exists()
