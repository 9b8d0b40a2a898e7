"""EWC, SI and MAS as features: what they hold is what the papers' sums say, in one process and on two ranks."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
import torch
from continual_job import Network, recipe
from torch import Tensor

from trustformers_pl.continual.fisher import diagonal_fisher
from trustformers_pl.continual.likelihood import cross_entropies
from trustformers_pl.testing import Ranks
from trustformers_pl.testing.on_ranks import train_and_die
from trustformers_pl.testing.trial import differences, train

if TYPE_CHECKING:
    from pathlib import Path

SECTIONS: dict[str, dict[str, Any]] = {
    "ewc": {"strength": 30.0, "fisher": "empirical"},
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
    run = train(one_task(ewc=SECTIONS["ewc"]), tmp_path).run
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
    fishers = fisher_after_first_task(first, ewc, section)
    for name, start in first.module.named_parameters():
        step = dict(free.module.named_parameters())[name] - start
        wanted = start + step / (1 + 0.1 * 200.0 * fishers[name])
        torch.testing.assert_close(dict(held.module.named_parameters())[name], wanted, rtol=1e-5, atol=1e-7)


def fisher_after_first_task(run: Any, ewc: Any, section: dict[str, Any]) -> dict[str, Tensor]:
    """By the functions that `test_fisher` holds to autograd, with the labels that the feature draws."""
    (tasks,) = run.callbacks("Tasks")
    batch = next(tasks.batches(0, 10_000))
    losses = ewc._losses(run.trainer, 0)
    found, samples = diagonal_fisher(run.module, [batch], lambda outputs, _: losses(outputs, batch))
    return {name: value / samples for name, value in found.items()}


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


@pytest.mark.parametrize("killed", [4, 6])
def test_si_and_mas_killed_and_resumed(killed: int, tmp_path: Path) -> None:
    sections = recipe({"steps": 3}, every=20, checkpoint={"every_n_steps": 2, "keep_last": 50})
    sections |= {"si": SECTIONS["si"], "mas": SECTIONS["mas"]}
    whole = train(sections, tmp_path / "whole")
    Ranks().run_until_killed(1, train_and_die, sections, str(tmp_path / "killed"), killed)
    resumed = train(sections, tmp_path / "killed")
    assert not differences(whole.state | whole.logged, resumed.state | resumed.logged)


def importances(sections: dict[str, Any], folder: str, name: str) -> dict[str, list[Any]]:
    """What a feature holds after a training, and the weights, whole."""
    run = train(sections, folder).run
    (found,) = [one for one in run.trainer.callbacks if type(one).__name__ == name]

    def whole(value: Any) -> list[Any]:
        return (value.full_tensor() if hasattr(value, "full_tensor") else value.detach()).tolist()

    kept = {name: whole(value) for name, value in found.curvature.items()}
    return {"curvature": kept, "weights": {name: whole(p) for name, p in run.module.named_parameters()}}


@pytest.mark.parametrize("ranks", [{"ddp": {}}, {"zero": {"stage": 1}}, {"zero": {"stage": 2}}, {"zero": {"stage": 3}}])
@pytest.mark.parametrize("name", ["EWC", "SI", "MAS"])
def test_two_ranks_hold_what_one_process_does(name: str, ranks: dict[str, Any], tmp_path: Path) -> None:
    """The same Fisher information, importances and weights, on global batches of the same samples."""
    if name != "EWC" and "zero" in ranks and ranks["zero"]["stage"] < 3:
        pytest.skip("the same code as for EWC and for stage 3")
    model = {"class_path": "continual_job.Network"}
    section = {name.lower(): SECTIONS[name.lower()]}
    one = recipe({"steps": 2}, every=8, model=model, **section)
    two = recipe({"steps": 2}, every=8, model=model, **section, **ranks)
    two["data"] = {"class_path": "continual_job.Digits", "init_args": {"every": 8, "batch_size": 8}}
    two["trainer"] = {**two["trainer"], "devices": 2}
    wanted = importances(one, str(tmp_path / "one"), name)
    for found in Ranks().run(2, importances, two, str(tmp_path / "two"), name):
        for kind in ("curvature", "weights"):
            for key, value in wanted[kind].items():
                torch.testing.assert_close(
                    torch.tensor(found[kind][key]),
                    torch.tensor(value),
                    rtol=2e-4,
                    atol=2e-6,
                    msg=lambda m: f"{key}: {m}",
                )


def test_empirical_labels_are_the_datas_own() -> None:
    """Not a copy of the rule: by the definition of cross-entropy."""
    logits, labels = torch.randn(4, 10), torch.arange(4)
    wanted = -logits.log_softmax(-1)[torch.arange(4), labels]
    torch.testing.assert_close(cross_entropies(logits, labels), wanted)
    assert isinstance(Network(), torch.nn.Module)
