"""Penalties, memories and teachers beside the features that touch weights, gradients, losses or the data."""

from __future__ import annotations

import copy
from typing import TYPE_CHECKING, Any

import pytest
import torch
from continual_job import Digits, recipe
from lightning import Callback, Trainer
from task_steps import Net, Points, loader, trained
from test_tasks import Ordinary
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from trustformers_pl.continual import Replay, TaskOrder, Tasks
from trustformers_pl.continual.fisher import diagonal_fisher
from trustformers_pl.continual.likelihood import empirical
from trustformers_pl.data import resumable_datamodule
from trustformers_pl.precision_order import OrderedPrecision
from trustformers_pl.steps import SampleWeights
from trustformers_pl.testing.trial import train

if TYPE_CHECKING:
    from pathlib import Path

HALVES = {"classes": [[0, 1, 2, 3, 4], [5, 6, 7, 8, 9]], "scenario": "class", "steps": 4, "measure": False}
COMPANY: dict[str, dict[str, Any]] = {
    "nobody": {},
    "clip": {"clip": {"norm": 0.5}},
    "ema": {"ema": {"decay": 0.5}},
    "accumulate": {"accumulate": {"batches": 2}},
    "bf16 O1": {"precision": {"dtype": "bf16", "opt_level": "O1"}},
    "bf16 O2": {"precision": {"dtype": "bf16", "opt_level": "O2"}},
    "bf16 O3": {"precision": {"dtype": "bf16", "opt_level": "O3"}},
    "fp16 O2": {"precision": {"dtype": "fp16", "opt_level": "O2", "initial_scale": 1024.0}},
    "finite": {"finite": {"policy": "skip"}},
    "schedule": {"schedule": {"name": "constant", "warmup_steps": 6}},
    "unfrozen in the second task": {"unfreeze": {"stages": [{"match": "layers.0.*", "step": 4}]}},
    "another rate a group": {"optimizer": {"name": "sgd", "lr": 0.05, "groups": [{"match": "*.bias", "lr": 0.5}]}},
    "adamw": {"optimizer": {"name": "adamw", "lr": 1e-3, "weight_decay": 0.0}},
    "lamb": {"optimizer": {"name": "lamb", "lr": 1e-3, "weight_decay": 0.0}},
    "adafactor": {"optimizer": {"name": "adafactor", "lr": 1e-3}},
}


class Boundary(Callback):
    """Takes the weights when the first task ends."""

    def __init__(self) -> None:
        self.weights: dict[str, Tensor] = {}

    def on_task_end(self, trainer: Any, pl_module: Any, task: int) -> None:
        if task == 0:
            self.weights = {name: p.detach().clone() for name, p in pl_module.named_parameters()}


def second_task(sections: dict[str, Any], folder: Path) -> tuple[dict[str, Tensor], dict[str, Tensor], Any]:
    """How far each weight went in the second task, the weights before it, and the run."""
    boundary = Boundary()
    common = {"model": {"class_path": "continual_job.Network"}, "optimizer": {"name": "sgd", "lr": 0.05}}
    run = train(recipe(HALVES, every=8, **(common | sections)), folder, also=[boundary]).run
    now = dict(run.module.named_parameters())
    return {n: (now[n].detach() - w).abs().float() for n, w in boundary.weights.items()}, boundary.weights, run


@pytest.mark.parametrize("name", COMPANY)
def test_what_is_held_beyond_measure_does_not_move(name: str, tmp_path: Path) -> None:
    """The tenth of the weights that were most important, at a strength where the proximal step leaves nothing to them.

    Optimizers with averages of earlier gradients go on along these for some steps: at most half of the way.
    """
    company = COMPANY[name]
    free, _, _ = second_task(company, tmp_path / "free")
    held, before, run = second_task({**company, "ewc": {"strength": 1e9}}, tmp_path / "held")
    (ewc,) = run.callbacks("EWC")
    first = {n: ewc._centre[n].float() for n in before}
    curvature = torch.cat([ewc.curvature[n].float().flatten() for n in before])
    most = curvature >= curvature.quantile(0.9)
    moved, would = (torch.cat([of[n].flatten() for n in before])[most] for of in (held, free))
    share = 1 / 2 if name in ("adamw", "lamb", "adafactor") else 1e-2
    assert would.mean() > 0
    assert moved.mean() < share * would.mean()
    assert ewc.added >= 4
    assert all(value.dtype == torch.float32 for value in (*first.values(), *ewc.curvature.values()))


def test_weights_are_held_where_they_were_and_not_where_their_average_was(tmp_path: Path) -> None:
    """With `ema` the model that is saved is an average; importances are of the weights that train."""
    _, before, run = second_task({"ema": {"decay": 0.99}, "ewc": {"strength": 0.0, "online": True}}, tmp_path)
    (ewc,) = run.callbacks("EWC")
    now = {name: p.detach() for name, p in run.module.named_parameters()}
    assert all(torch.equal(ewc._centre[name], now[name]) for name in before)


def test_a_step_with_the_penalty_is_clipped_as_a_whole(tmp_path: Path) -> None:
    """Plain SGD moves by lr times the norm at most: 4 steps of 0.05 * 0.01, were the penalty as strong as it likes."""
    sections = {"clip": {"norm": 0.01}, "ewc": {"strength": 1e3}}
    moved, _, _ = second_task(sections, tmp_path)
    assert torch.cat([one.flatten() for one in moved.values()]).norm() <= 4 * 0.05 * 0.01 * (1 + 1e-4)


class Checkpointed(nn.Module):
    """Two layers that are computed again in the backward pass."""

    def __init__(self, again: bool) -> None:
        super().__init__()
        self.first, self.last, self.again = nn.Sequential(nn.Linear(5, 7), nn.Tanh()), nn.Linear(7, 3), again

    def forward(self, batch: dict[str, Tensor]) -> Tensor:
        x = batch["x"]
        hidden = checkpoint(self.first, x, use_reentrant=False) if self.again else self.first(x)
        return self.last(hidden)


def test_the_fisher_information_of_layers_that_are_computed_again() -> None:
    torch.manual_seed(0)
    plain = Checkpointed(again=False).double()
    again = Checkpointed(again=True).double()
    again.load_state_dict(plain.state_dict())
    batch = {"x": torch.randn(11, 5, dtype=torch.double), "labels": torch.randint(0, 3, (11,))}
    losses = empirical(lambda b: b["labels"])
    wanted, found = (diagonal_fisher(copy.deepcopy(one), [batch], losses)[0] for one in (plain, again))
    for name, value in wanted.items():
        torch.testing.assert_close(found[name], value, rtol=1e-10, atol=1e-14)


def test_replayed_samples_are_weighed_as_others_are() -> None:
    """The loss of each step by hand: weights follow from the labels, those of replayed rows too."""
    module, seen = Net(double=True), []
    module.sample_weights = (SampleWeights("by class", lambda _, batch: 1.0 + batch["labels"].double()),)
    compute = module.training_step

    def noted(batch: dict[str, Tensor], batch_idx: int) -> dict[str, Tensor]:
        outputs: list[Tensor] = []
        handle = module.net.register_forward_hook(lambda *given: outputs.append(given[-1]))
        answer = compute(batch, batch_idx)
        handle.remove()
        seen.append((len(batch["labels"]), outputs[0].detach(), batch["labels"], answer["loss"].detach()))
        return answer

    module.training_step = noted  # type: ignore[method-assign]
    trained(module, [Replay(capacity=12, batch=4)], data=loader())
    assert [number for number, *_ in seen] == [8] + [12] * 7
    for number, outputs, labels, loss in seen:
        wanted = ((1.0 + labels) * F.cross_entropy(outputs, labels, reduction="none")).sum() / number
        torch.testing.assert_close(loss, wanted)
    assert len(Points()) == 64


def test_tasks_and_replay_and_lwf_in_one_run(tmp_path: Path) -> None:
    """The teacher answers for new and for replayed rows; both leave evidence, and less is forgotten than without."""
    section = {"scenario": "class", "epochs": 4}

    def accuracy(name: str, **more: Any) -> float:
        model = {"class_path": "continual_job.Network"}
        run = train(recipe(section, every=2, model=model, checkpoint={}, **more), tmp_path / name).run
        assert all(run.probe()[feature] for feature in more)
        return float(run.trainer.callback_metrics["average_accuracy"])

    plain = accuracy("plain")
    both = accuracy("both", replay={"capacity": 100, "batch": 16}, lwf={"alpha": 0.5})
    assert both > plain + 0.2


@pytest.mark.parametrize(
    "sections",
    [
        {"ewc": {"batch_size": 7}},
        {"mas": {}},
        {"lwf": {"cache": True}},
        {"replay": {"keep": "herding", "capacity": 20}},
    ],
    ids=str,
)
def test_samples_that_cannot_be_read_are_set_aside_in_passes_too(sections: dict[str, Any], tmp_path: Path) -> None:
    """4 of 168, the very first among them: each is named once, and the run goes on through all tasks."""
    made = recipe({"scenario": "class", "steps": 2}, every=8, checkpoint={}, quarantine={}, **sections)
    made["data"] = {"class_path": "continual_job.DamagedDigits", "init_args": {"every": 8}}
    made["model"] = {"class_path": "continual_job.Weighable"}
    run = train(made, tmp_path).run
    assert all(run.probe()[feature] for feature in sections)
    assert run.callbacks("Tasks")[0].ended == 5
    (quarantine,) = run.callbacks("Quarantine")
    assert set(quarantine.found) == {0, 50, 100, 150}


def smallest_first(indices: Tensor, epoch: int, seed: int) -> Tensor:
    """A curriculum, as another feature may bring one."""
    del epoch, seed
    return indices.sort().values


@pytest.mark.parametrize("first", ["tasks", "curriculum"])
def test_another_order_orders_the_samples_of_a_task(first: str, tmp_path: Path) -> None:
    """Whichever comes first, an epoch has its task's samples and no others, in the curriculum's order."""
    tasks = TaskOrder("class", number=5)
    functions = [tasks, smallest_first] if first == "tasks" else [smallest_first, tasks]
    data = resumable_datamodule(Digits(every=20), seed=0, phases={"order": functions})
    trainer = Trainer(
        accelerator="cpu", devices=1, max_epochs=5, callbacks=[Tasks()], plugins=[OrderedPrecision()], logger=False,
        enable_checkpointing=False, enable_progress_bar=False, enable_model_summary=False, default_root_dir=tmp_path,
    )  # fmt: skip
    trainer.fit(Ordinary(), datamodule=data)
    trained_on: Any = trainer.train_dataloader
    for epoch in range(5):
        batches = trained_on.batches_in(epoch)
        found = torch.cat([batches[number] for number in range(len(batches))])
        assert torch.equal(found, (tasks.of_sample == epoch).nonzero().flatten())
