"""One `fit` in which a network grows: what is forgotten, plain torch beside it, resume, evaluations, ranks, company."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import killed
import phased
import pytest
import torch
from continual_job import Digits, Network, recipe
from digits_tasks import network as digits_network
from lightning import Trainer
from lightning.pytorch.plugins.environments import LightningEnvironment
from torch import nn
from torch.nn import functional as F

from trustformers_pl import ModulePhases, PhasedModule
from trustformers_pl.continual import (
    AccuracyMatrix,
    IntoColumns,
    Progressive,
    ProgressiveModule,
    ProgressiveNetwork,
    TaskOrder,
    Tasks,
)
from trustformers_pl.continual.column_growth import add_column
from trustformers_pl.continual.columns import AdapterLateral, LinearLateral
from trustformers_pl.data import resumable_datamodule
from trustformers_pl.errors import RefusedError
from trustformers_pl.factory import assemble
from trustformers_pl.precision_order import OrderedPrecision
from trustformers_pl.testing import Ranks
from trustformers_pl.testing.on_ranks import train_and_die
from trustformers_pl.testing.trial import differences, train

if TYPE_CHECKING:
    from pathlib import Path

COLUMNS = {"column": "layers"}
THREE = {"classes": [[0, 1], [2, 3, 4], [5, 6, 7, 8, 9]]}


def grown(tasks: dict[str, Any] | None = None, **more: Any) -> dict[str, Any]:
    sections = recipe({"steps": 3, **(tasks or {})}, **{"progressive": COLUMNS, **more})
    return {key: value for key, value in sections.items() if value is not None}


@pytest.mark.parametrize("lateral", ["linear", "adapter"])
def test_nothing_is_forgotten_in_five_tasks(lateral: str, tmp_path: Path) -> None:
    trial = train(grown({"steps": None, "epochs": 8}, every=1, progressive=COLUMNS | {"lateral": lateral}), tmp_path)
    assert trial.evidence["progressive"] == "5 columns"
    (matrix,) = trial.run.callbacks("AccuracyMatrix")
    assert matrix.metrics["forgetting"] == 0.0  # exactly: the answers keep their bits
    for task, row in enumerate(matrix.rows):
        assert row[: task + 1] == [matrix.rows[i][i] for i in range(task + 1)]
    assert matrix.metrics["average_accuracy"] > 0.95
    # The validation loop sees all tasks mixed: each row is answered by its own column.
    assert trial.run.validate()["val_loss"] < 0.2


class Noted(Progressive):
    """A `Progressive` that keeps the batches, and each column as it was when it came."""

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self.batches: list[tuple[torch.Tensor, torch.Tensor]] = []
        self.columns: dict[int, dict[str, torch.Tensor]] = {}

    def on_train_batch_start(self, trainer: Trainer, pl_module: Any, batch: Any, batch_idx: int) -> None:
        self.batches.append((batch[0].clone(), batch[1].clone()))

    def on_grown(self, trainer: Trainer, module: Any, names: tuple[str, ...]) -> None:
        self.columns[trainer.global_step] = copied(module.layers.columns[-1])


def copied(module: nn.Module) -> dict[str, torch.Tensor]:
    return {name: value.detach().clone() for name, value in module.state_dict().items()}


def by_hand(
    first: dict[str, torch.Tensor], noted: Noted, rate: Any, kind: type[nn.Module] = LinearLateral
) -> list[dict[str, torch.Tensor]]:
    """The same in plain torch: equation 2 (or 3) on lists of weights, a new AdamW for each column."""
    done: list[dict[str, torch.Tensor]] = []
    now, optimizer = {name: value.clone().requires_grad_() for name, value in first.items()}, None
    for step, (x, y) in enumerate(noted.batches):
        if step in noted.columns:
            done.append({name: value.detach() for name, value in now.items()})
            now, optimizer = {n: v.clone().requires_grad_() for n, v in noted.columns[step].items()}, None
        if optimizer is None:
            # As the recipe: matrices decay, biases do not.
            matrices, vectors = ([p for p in now.values() if (p.dim() > 1) is two] for two in (True, False))
            groups = [{"params": matrices, "weight_decay": 0.1}, {"params": vectors, "weight_decay": 0.0}]
            optimizer = torch.optim.AdamW(groups, lr=0.01, eps=1e-3)
        for group in optimizer.param_groups:
            group["lr"] = rate(step)
        h: list[list[torch.Tensor]] = []
        for k, w in enumerate([*done, now]):
            z, inputs = x, []
            for level, layer in enumerate((0, 2, 4)):
                inputs.append(z)
                a = z @ w[f"body.{layer}.weight"].T + w[f"body.{layer}.bias"]
                if level and k:
                    own = {
                        n.removeprefix(f"laterals.{level - 1}."): v
                        for n, v in w.items()
                        if n.startswith(f"laterals.{level - 1}.")
                    }
                    before = [one[level] for one in h]
                    if kind is LinearLateral:
                        a = a + sum(before[j] @ own[f"u.{j}.weight"].T for j in range(k))
                    else:
                        one = torch.cat([own["alpha"][j] * before[j] for j in range(k)], -1)
                        a = a + torch.relu(one @ own["v.weight"].T + own["v.bias"]) @ own["u.weight"].T
                z = a if level == 2 else torch.relu(a)
            h.append(inputs)
        optimizer.zero_grad()
        F.cross_entropy(z, y).backward()
        optimizer.step()
    return [*done, {name: value.detach() for name, value in now.items()}]


@pytest.mark.parametrize(("lateral", "kind"), [("linear", LinearLateral), ("adapter", AdapterLateral)])
def test_it_trains_as_in_plain_torch_through_two_growths(lateral: str, kind: type[nn.Module], tmp_path: Path) -> None:
    sections = grown(
        {"scenario": "domain", "classes": None, "number": 3, "measure": False, "steps": 5},
        model={"class_path": "continual_job.Network", "init_args": {}},
        progressive=COLUMNS | {"lateral": lateral},
        optimizer={
            "name": "adamw",
            "lr": 0.01,
            "weight_decay": 0.1,
            "eps": 1e-3,
        },  # else rounding is divided by nothing
        schedule={"name": "cosine", "num_training_steps": 15},
    )
    sections["tasks"].pop("classes")
    run = assemble({**sections, "trainer": {**sections["trainer"], "default_root_dir": str(tmp_path)}})
    noted = Noted()
    run.trainer.callbacks = [noted if isinstance(one, Progressive) else one for one in run.trainer.callbacks]
    first = {f"body.{name}": value for name, value in digits_network(0).state_dict().items()}
    run.fit()
    assert list(noted.columns) == [5, 10]
    # Eq. 5 of Loshchilov & Hutter 2017, over the 15 steps.
    columns = by_hand(first, noted, lambda step: 0.01 * 0.5 * (1 + math.cos(math.pi * step / 15)), kind)
    for ours, expected in zip(run.module.layers.columns, columns, strict=True):
        for name, value in ours.state_dict().items():
            torch.testing.assert_close(value, expected[name], rtol=0, atol=1e-6)
    (optimizer,) = run.trainer.optimizers
    trained = {p for group in optimizer.param_groups for p in group["params"]}
    assert trained == set(run.module.layers.columns[2].parameters())
    assert set(optimizer.state) == trained


def adaptive(**more: Any) -> dict[str, Any]:
    return grown(
        THREE,
        every=4,
        optimizer={"name": "adamw", "lr": 3e-3},
        schedule={"name": "cosine", "num_training_steps": 12, "warmup_steps": 2},
        checkpoint={"every_n_steps": 2, "keep_last": 50},
        **more,
    )


@pytest.mark.parametrize("step", [4, 6, 7])
def test_killed_in_a_task_or_at_its_boundary_it_ends_with_the_same_bits(step: int, tmp_path: Path) -> None:
    """3 steps a task, a checkpoint every two: boundaries are at 3 and 6, of which only 6 is saved, with its new column."""
    sections = adaptive(ema={"decay": 0.9}, clip={"norm": 1.0})
    whole, resumed = killed.resumed(sections, tmp_path, step)
    (matrix,), (other,) = whole.run.callbacks("AccuracyMatrix"), resumed.run.callbacks("AccuracyMatrix")
    assert matrix.rows == other.rows
    groups = [[g["param_names"] for g in t.run.trainer.optimizers[0].param_groups] for t in (whole, resumed)]
    assert groups[0] == groups[1]


def test_evaluations_of_a_checkpoint_in_a_new_process(tmp_path: Path) -> None:
    sections = adaptive()
    trial = train(sections, tmp_path)
    expected = trial.run.validate()
    other = assemble({**sections, "trainer": {**sections["trainer"], "default_root_dir": str(tmp_path)}})
    assert other.validate() == expected
    other.load_weights()
    assert len(other.module.layers.columns) == 3
    before = [p for p in sorted((tmp_path / "checkpoints").iterdir()) if p.is_dir() and "2" in p.name]
    other.load_checkpoint(before[0])  # of the first task: what has grown since is taken away
    other.validate()
    assert len(other.module.layers.columns) == 1
    assert all(p.requires_grad for p in other.module.layers.parameters())


def stock(*callbacks: Any, folder: Path, ckpt: Any = None, **options: Any) -> tuple[Trainer, Any]:
    class Stock(Network):
        def __init__(self) -> None:
            super().__init__()
            self.layers = ProgressiveNetwork(self.layers, **options)

        def training_step(self, batch: Any, batch_idx: int) -> torch.Tensor:
            return F.cross_entropy(self(batch), batch[1])

        def configure_optimizers(self) -> Any:
            optimizer = torch.optim.Adam([p for p in self.parameters() if p.requires_grad], 1e-3)
            return [optimizer], [torch.optim.lr_scheduler.StepLR(optimizer, 2)]

    order = TaskOrder("domain", number=3, epochs=1)
    trainer = Trainer(
        accelerator="cpu",
        devices=1,
        max_epochs=50,
        callbacks=[Tasks(), *callbacks],
        plugins=[OrderedPrecision(), LightningEnvironment()],
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        default_root_dir=folder,
    )
    module = Stock()
    trainer.fit(
        module,
        datamodule=resumable_datamodule(Digits(every=8), seed=0, phases={"order": [order]}),
        ckpt_path=ckpt,
        weights_only=False,
    )
    return trainer, module


def test_in_a_stock_trainer_and_its_own_checkpoint(tmp_path: Path) -> None:
    matrix = AccuracyMatrix()

    class Saves(Progressive):
        def on_step_boundary(self, trainer: Trainer, pl_module: Any) -> None:
            if trainer.global_step == 6:
                assert len(pl_module.layers.columns) == 2
                trainer.save_checkpoint(tmp_path / "two.ckpt")

    trainer, module = stock(Saves(), matrix, folder=tmp_path)
    assert len(module.layers.columns) == 3
    assert matrix.metrics["forgetting"] == 0.0
    assert [g["lr"] for g in trainer.optimizers[0].param_groups] == pytest.approx([1e-4])  # StepLR, by epochs
    other = type(module)()
    other.load_state_dict(module.state_dict())
    x = torch.randn(4, 64)
    module.eval()
    assert torch.equal(other.eval()([x]), module([x]))
    _, resumed = stock(Progressive(), folder=tmp_path, ckpt=tmp_path / "two.ckpt")
    for name, value in resumed.state_dict().items():
        torch.testing.assert_close(value, module.state_dict()[name], rtol=0, atol=0)


def test_what_is_not_in_the_columns_may_be_frozen(tmp_path: Path) -> None:
    found = {}
    for freeze in (True, False):
        sections = grown(
            THREE, every=4, progressive=COLUMNS | {"freeze_rest": freeze}, model={"class_path": "columns_job.Below"}
        )
        trial = train(sections, tmp_path / str(freeze))
        (matrix,) = trial.run.callbacks("AccuracyMatrix")
        found[freeze] = [matrix.rows[-1][task] == matrix.rows[task][task] for task in range(2)]
        assert trial.run.module.below[0].weight.requires_grad is not freeze
        if freeze:
            assert found[freeze] == [True, True]
            Ranks().run_until_killed(1, train_and_die, sections, str(tmp_path / "killed"), 7)
            resumed = train(sections, tmp_path / "killed")
            assert not differences(trial.state, resumed.state)


@pytest.mark.parametrize(
    ("sections", "said"),
    [
        (
            {"tasks": {"scenario": "class"}},
            "progressive chooses .*scenario class tells no tasks; use scenario task or domain",
        ),
        (
            {"progressive": {"column": "layer"}},
            "progressive.column: the module has no submodule 'layer'; it has layers, dropout",
        ),
        ({"tasks": None}, "progressive needs .*tasks"),
        ({"zero": {"stage": 2}}, "columns grow during the training; use ddp"),
        (
            {"finite": {"policy": "roll_back"}},
            "fewer columns than its optimizer then trains; use the policy skip or stop",
        ),
    ],
)
def test_refused_before_training(sections: dict[str, Any], said: str, tmp_path: Path) -> None:
    made = {k: v for k, v in {**grown(), **sections}.items() if v is not None}
    made["trainer"] = {**made["trainer"], "default_root_dir": str(tmp_path)}
    with pytest.raises(RefusedError, match=said):
        assemble(made).fit()
    assert not list(tmp_path.rglob("checkpoints/*"))


COMPANY: dict[str, dict[str, Any]] = {
    "ewc": {"ewc": {"strength": 10.0}},
    "si": {"si": {"strength": 1.0}, "accumulate": {"batches": 2}},
    "mas and the average": {"mas": {"strength": 1.0}, "ema": {"decay": 0.9}},
    "lwf": {"lwf": {}},
    "lwf with kept answers": {"lwf": {"cache": True}},
    "replay and a layer that begins later": {
        "replay": {"capacity": 30, "batch": 4},
        "unfreeze": {"stages": [{"match": "*body.0.*", "step": 7}]},
    },
}


@pytest.mark.parametrize("company", COMPANY)
def test_beside_features_that_look_at_weights(company: str, tmp_path: Path) -> None:
    """What is in no column trains on, and is held; killed in the third task, the run ends with the same bits."""
    model = {"class_path": "columns_job.Beneath"}
    sections = grown(THREE, every=4, model=model, checkpoint={"every_n_steps": 2, "keep_last": 50}, **COMPANY[company])
    whole, _ = killed.resumed(sections, tmp_path, 7)
    assert all(whole.evidence[name] for name in COMPANY[company])
    module = whole.run.module
    for name in ("EWC", "SI", "MAS"):
        for callback in whole.run.callbacks(name):
            assert callback.curvature.keys() == {n for n, p in module.named_parameters() if p.requires_grad}
            assert callback.curvature["below.0.weight"].any()
    for callback in whole.run.callbacks("EMA"):
        assert callback.averages.keys() == {n for n, p in module.named_parameters() if p.requires_grad}


class Grown(ProgressiveModule, PhasedModule, Network):
    """As `assemble` composes it."""


def adapted(seed: int = 0) -> Any:
    module = Grown()
    module.module_phases = ModulePhases({"surgery": [IntoColumns("layers"), phased.adapt]}, seed=seed)
    module.configure_model()
    return module


def test_a_new_column_gets_other_features_surgery_also_when_it_is_loaded() -> None:
    module, x = adapted(), [torch.randn(3, 64)]
    for _ in range(2):
        add_column(module, "layers")
    column = module.layers.columns[2]
    with torch.no_grad():
        for parameter in column.parameters():
            nn.init.normal_(parameter, std=0.1)
    trained = {name for name, parameter in module.named_parameters() if parameter.requires_grad}
    assert "layers.columns.2.body.2.beside.weight" in trained
    assert {name.split(".")[2] for name in trained} == {"2"}
    assert all(name.endswith("beside.weight") for name in trained)
    other = adapted(seed=1)
    other.load_state_dict(module.state_dict())
    assert torch.equal(other.eval()(x), module.eval()(x))
    assert {name for name, parameter in other.named_parameters() if parameter.requires_grad} == trained
    # The lateral is added to what the whole adapted layer gives.
    one, two = (module.layers.columns[i].body[:2](x[0]) for i in (0, 2))
    first = module.layers.columns[1]
    before = first.body[:2](x[0])
    added = column.laterals[0]([one, before])
    assert torch.equal(column((*_readings(module, x[0]),), x[0])[1].inputs[2], torch.relu(column.body[2](two) + added))
    smaller = adapted()
    smaller.load_state_dict({n: v for n, v in module.state_dict().items() if ".columns.2." not in n})
    assert {n.split(".")[2] for n, p in smaller.named_parameters() if p.requires_grad} == {"1"}
    other.load_state_dict(smaller.state_dict())  # takes a column away, and lets train what trained before
    assert {n for n, p in other.named_parameters() if p.requires_grad} == {
        n for n, p in smaller.named_parameters() if p.requires_grad
    }


def _readings(module: Any, x: torch.Tensor) -> list[list[torch.Tensor]]:
    found: list[list[torch.Tensor]] = []
    for column in module.layers.columns[:2]:
        found.append(column(found, x)[1].inputs)
    return found
