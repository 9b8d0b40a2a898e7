"""EWC, SI and MAS as features: what they hold is what the papers' sums say; two ranks are `test_tasks_on_ranks.py`'s."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import killed
import pytest
import torch
from continual_job import recipe
from torch import Tensor

from trustformers_pl.continual.ewc import drawn_labels
from trustformers_pl.continual.fisher import diagonal_fisher
from trustformers_pl.continual.likelihood import cross_entropies
from trustformers_pl.testing.trial import differences, train

if TYPE_CHECKING:
    from pathlib import Path

SECTIONS: dict[str, dict[str, Any]] = {
    "ewc": {"strength": 30.0},
    "si": {"strength": 1.0},
    "mas": {"strength": 0.1},
}


def one_task(**more: Any) -> dict[str, Any]:
    """One task of four steps without dropout, all of whose data are known."""
    trainer = {**recipe()["trainer"], "max_epochs": 1}
    model = {"class_path": "continual_job.Network"}
    return recipe({"classes": None, "scenario": "class", "number": 1}, every=20, trainer=trainer, model=model, **more)


def test_the_fisher_information_is_a_loop_over_samples(tmp_path: Path) -> None:
    """Mean over samples of squared gradients by autograd (Kirkpatrick et al. 2017), of the run's last weights."""
    run = train(one_task(ewc={"fisher": "empirical"}), tmp_path).run
    (found,) = run.callbacks("EWC")
    x, y = run.callbacks("Tasks")[0].loader.dataset.tensors
    wanted = {name: torch.zeros_like(p) for name, p in run.module.named_parameters()}
    for one, label in zip(x, y, strict=True):
        loss = torch.nn.functional.cross_entropy(run.module.layers(one[None]), label[None])
        for (name, _), g in zip(
            run.module.named_parameters(), torch.autograd.grad(loss, [*run.module.parameters()]), strict=True
        ):
            wanted[name] += g**2 / len(y)
    assert found.curvature.keys() == wanted.keys()
    for name, value in wanted.items():
        torch.testing.assert_close(found.curvature[name], value, rtol=1e-4, atol=1e-9)


def test_a_step_with_it_is_the_papers(tmp_path: Path) -> None:
    """Two tasks of one step and plain SGD: w2 = w1 - lr g / (1 + lr s F), as w1 is the centre: exact by hand."""
    section = {"steps": 1, "scenario": "class", "classes": [[0, 1, 2, 3, 4], [5, 6, 7, 8, 9]]}
    common = {"model": {"class_path": "continual_job.Network"}, "optimizer": {"name": "sgd", "lr": 0.1}}
    free = train(recipe(section, every=20, **common), tmp_path / "free").run
    held = train(recipe(section, every=20, **common, ewc={"strength": 200.0}), tmp_path / "held").run
    first = train(
        recipe(section, every=20, **common, trainer={**recipe()["trainer"], "max_steps": 1}), tmp_path / "first"
    ).run
    (ewc,) = held.callbacks("EWC")
    assert ewc.absorbed == 2
    assert ewc.added == 1
    fishers = fisher_after_first_task(first)
    for name, start in first.module.named_parameters():
        step = dict(free.module.named_parameters())[name] - start
        wanted = start + step / (1 + 0.1 * 200.0 * fishers[name])
        torch.testing.assert_close(dict(held.module.named_parameters())[name], wanted, rtol=1e-5, atol=1e-7)


def fisher_after_first_task(run: Any) -> dict[str, Tensor]:
    """By the functions that `test_fisher` holds to autograd, with the labels that the feature draws."""
    (tasks,) = run.callbacks("Tasks")
    run.module.eval()
    x = tasks.loader.dataset.tensors[0][tasks.indices(0)]
    labels = drawn_labels(run.module.layers(x), tasks.indices(0), "fisher", 0)
    found, samples = diagonal_fisher(run.module.layers, [x], lambda outputs, _: cross_entropies(outputs, labels))
    return {f"layers.{name}": value / samples for name, value in found.items()}


def test_labels_are_drawn_from_the_model_wherever_a_sample_is() -> None:
    """Shares over 20,000 draws within 4 standard errors; a class of probability 0 never; one sample by itself."""
    logits = torch.tensor([0.5, -torch.inf, 1.5, 0.0, -torch.inf]).expand(20_000, 5)
    indices = torch.arange(20_000)
    drawn = drawn_labels(logits, indices, "fisher", 0)
    wanted = logits[0].softmax(-1)
    shares = torch.bincount(drawn, minlength=5) / 20_000
    assert ((shares - wanted).abs() <= 4 * (wanted * (1 - wanted) / 20_000).sqrt()).all()
    assert drawn[17:19].tolist() == drawn_labels(logits[17:19], indices[17:19], "fisher", 0).tolist()
    assert drawn_labels(torch.zeros(3, 4, 7), indices[:3], 1).shape == (3, 4)


@pytest.mark.parametrize("name", [*SECTIONS])
def test_at_strength_zero_nothing_changes(name: str, tmp_path: Path) -> None:
    plain = train(recipe({"steps": 2}, every=20), tmp_path / "plain")
    neutral = train(recipe({"steps": 2}, every=20, **{name: {"strength": 0.0}}), tmp_path / "neutral")
    assert not differences(plain.state, neutral.state, only=plain.state)


@pytest.mark.parametrize("name", [*SECTIONS])
def test_less_is_forgotten(name: str, tmp_path: Path) -> None:
    """Five tasks of two digits, task-incremental, all 1,347 training samples."""
    strength = {"ewc": 1e3, "si": 3.0, "mas": 0.3}[name]
    more = {"model": {"class_path": "continual_job.Network"}, "checkpoint": {"every_n_steps": None}}
    plain = train(recipe({"epochs": 4}, every=1, **more), tmp_path / "plain").run.callbacks("AccuracyMatrix")[0]
    held = train(recipe({"epochs": 4}, every=1, **more, **{name: {"strength": strength}}), tmp_path / "held").run
    (found,) = held.callbacks("AccuracyMatrix")
    assert found.metrics["forgetting"] < plain.metrics["forgetting"]
    assert found.metrics["average_accuracy"] > plain.metrics["average_accuracy"] + 0.02


@pytest.mark.parametrize("step", [4, 6])
def test_si_and_mas_killed_and_resumed(step: int, tmp_path: Path) -> None:
    sections = recipe({"steps": 3}, every=20, checkpoint={"every_n_steps": 2, "keep_last": 50})
    sections |= {"si": SECTIONS["si"], "mas": SECTIONS["mas"]}
    killed.resumed(sections, tmp_path, step)


def test_all_classes_in_a_task_with_masks(tmp_path: Path) -> None:
    """Outputs of other tasks have no probability: their last layer's rows have no importance, and nothing is NaN."""
    run = train(recipe({"steps": 2}, every=20, ewc={"fisher": "expected"}), tmp_path).run
    (ewc,) = run.callbacks("EWC")
    assert all(bool(value.isfinite().all()) for value in ewc.curvature.values())
    assert bool((ewc.curvature["layers.4.bias"] > 0).all())
    assert ewc.absorbed == 5
