"""A module that grows while it is trained: the new part goes through the phases, and is trained as by hand."""

from __future__ import annotations

import math
from typing import Any

import phased
import pytest
import tiny
import torch
from lightning import Callback, LightningModule, Trainer
from lightning.pytorch.plugins.environments import LightningEnvironment
from lightning.pytorch.strategies import SingleDeviceStrategy
from torch import Tensor, nn

from trustformers_pl import ModulePhases, PhasedModule, assemble, grow
from trustformers_pl.errors import RefusedError
from trustformers_pl.optim import decay_groups


class Columns(tiny.Composable):
    """A sum of linear layers (without lateral connections, a progressive network's columns)."""

    def __init__(self) -> None:
        super().__init__()
        del self.layer
        self.columns = nn.ModuleList([nn.Linear(4, 1)])

    def forward(self, batch: list[Tensor]) -> Tensor:
        return sum(column(batch[0]) for column in self.columns)  # type: ignore[return-value]


class Grows(Callback):
    """Adds a column before step `step`."""

    def __init__(self, step: int, **arguments: Any) -> None:
        self.step, self.arguments = step, arguments
        self.added: dict[str, nn.Parameter] = {}

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        if trainer.global_step == self.step:
            self.added = grow(pl_module, "columns.1", column(), **self.arguments)


def column() -> nn.Linear:
    layer = nn.Linear(4, 1)
    nn.init.constant_(layer.weight, 0.5)
    nn.init.constant_(layer.bias, 0.25)
    return layer


RECIPE: dict[str, Any] = {
    "model": {"class_path": "test_growth.Columns"},
    "data": {"class_path": "tiny.Data", "init_args": {"shuffle": False}},
    "trainer": {"max_steps": 8, "accelerator": "cpu"},
    "optimizer": {"name": "adamw", "lr": 0.1, "weight_decay": 0.1},
    "schedule": {"name": "cosine", "warmup_steps": 2},
}


def by_hand(first: nn.Linear, batches: list[list[Tensor]], grown_at: int) -> list[nn.Linear]:
    """The same training in plain torch: AdamW with four groups, cosine from eq. 5 of Loshchilov & Hutter 2017."""
    columns = [first]

    def groups(layer: nn.Linear) -> list[dict[str, Any]]:
        return [{"params": [layer.weight], "weight_decay": 0.1}, {"params": [layer.bias], "weight_decay": 0.0}]

    optimizer = torch.optim.AdamW(groups(first), fused=True)
    for step, (x, y) in enumerate(batches):
        if step == grown_at:
            columns.append(column())
            for group in groups(columns[-1]):
                optimizer.add_param_group(group)
        rate = 0.1 * (step / 2 if step < 2 else 0.5 * (1 + math.cos(math.pi * (step - 2) / 6)))
        for group in optimizer.param_groups:
            group["lr"] = rate
        optimizer.zero_grad()
        ((sum(layer(x) for layer in columns) - y) ** 2).mean().backward()
        optimizer.step()
    return columns


@pytest.mark.parametrize("grown_at", [1, 3])
def test_a_grown_column_trains_as_in_plain_torch(grown_at: int) -> None:
    run = assemble(RECIPE)
    grows = Grows(grown_at)
    run.trainer.callbacks.append(grows)  # type: ignore[attr-defined]
    first = nn.Linear(4, 1)
    first.load_state_dict(run.module.columns[0].state_dict())
    run.fit()
    x, y = tiny.samples(32).tensors
    columns = by_hand(first, list(zip(x.split(4), y.split(4), strict=True)), grown_at)
    # Source: the loop above, in torch alone; equal to rounding, as the schedule's product is rounded elsewhere.
    for ours, expected in zip(run.module.columns, columns, strict=True):
        torch.testing.assert_close(ours.weight, expected.weight, rtol=1e-5, atol=1e-6)
        torch.testing.assert_close(ours.bias, expected.bias, rtol=1e-5, atol=1e-6)
    assert list(grows.added) == ["columns.1.weight", "columns.1.bias"]
    assert grows.added["columns.1.weight"] is run.module.columns[1].weight
    names = ["columns.0.weight", "columns.0.bias", "columns.1.weight", "columns.1.bias"]
    assert [name for name, _ in run.module.named_parameters()] == names
    (optimizer,) = run.trainer.optimizers
    # As a new AdamW of the grown module has them: by role, in the order of the names.
    assert [group["param_names"] for group in optimizer.param_groups] == [names[::2], names[1::2]]
    assert [group["weight_decay"] for group in optimizer.param_groups] == [0.1, 0.0]
    assert len({group["lr"] for group in optimizer.param_groups}) == 1


class StockColumns(PhasedModule, Columns):
    """As a person types it, with an optimizer of one group or two."""

    def __init__(self, *, grouped: bool = False, scheduled: Any = None) -> None:
        super().__init__()
        self.grouped, self.scheduled = grouped, scheduled

    def configure_optimizers(self) -> Any:
        params = decay_groups(self, weight_decay=0.1) if self.grouped else self.parameters()
        optimizer = torch.optim.SGD(params, lr=0.1, momentum=0.9)
        return [optimizer], [self.scheduled(optimizer)] if self.scheduled else []


def trained(module: LightningModule, *callbacks: Callback, **arguments: Any) -> LightningModule:
    quiet = {"enable_checkpointing": False, "enable_progress_bar": False, "enable_model_summary": False}
    trainer = Trainer(
        accelerator="cpu",
        max_steps=6,
        logger=False,
        plugins=[LightningEnvironment()],
        callbacks=list(callbacks),
        **quiet,
        **arguments,
    )
    trainer.fit(module, datamodule=tiny.Data())
    return module


def test_in_a_stock_trainer_all_phases_run_on_the_new_part_alone() -> None:
    module = StockColumns()
    nn.init.constant_(module.columns[0].weight, 3.0)
    seen: list[list[str]] = []

    def look(given: nn.Module, context: Any) -> None:
        seen.append([f"{name} {p.flatten()[0].item()}" for name, p in given.named_parameters() if "weight" in name])

    phases = {"compile": [look], "surgery": [phased.Scale(2.0), phased.adapt]}
    module.module_phases = ModulePhases(phases)
    grows = Grows(3)
    trained(module, grows)
    # By hand: 3 x 2 at the start, 0.5 x 2 in the grown column; the adapters beside them start at zero.
    assert seen == [
        ["columns.0.base.weight 6.0", "columns.0.beside.weight 0.0"],
        ["columns.1.base.weight 1.0", "columns.1.beside.weight 0.0"],
    ]
    assert list(grows.added) == ["columns.1.beside.weight"]
    assert module.columns[0].base.weight.tolist() == [[6.0] * 4]
    assert module.columns[1].base.weight.tolist() == [[1.0] * 4]
    assert module.columns[1].beside.weight.abs().min() > 0


@pytest.mark.parametrize("groups", [None, lambda part: decay_groups(part, weight_decay=0.1)])
def test_settings_of_a_stock_optimizer(groups: Any) -> None:
    module = StockColumns(grouped=groups is not None)
    trained(module, Grows(3, groups=groups))
    (optimizer,) = module.trainer.optimizers
    assert [(g["momentum"], g["weight_decay"], len(g["params"])) for g in optimizer.param_groups] == (
        [(0.9, 0, 4)] if groups is None else [(0.9, 0.1, 2), (0.9, 0.0, 2)]
    )
    assert not torch.equal(module.columns[1].weight, torch.full((1, 4), 0.5))


def test_before_training_the_part_only_joins() -> None:
    module = StockColumns()
    module.module_phases = ModulePhases({"surgery": [phased.Scale(2.0)]})
    assert grow(module, "columns.1", column()) == {}
    module.configure_model()
    # By hand: 0.5 x 2; after the phases have run they run on the newcomer alone.
    assert module.columns[1].weight.tolist() == [[1.0] * 4]
    grow(module, "columns.2", column().eval())
    assert module.columns[2].weight.tolist() == [[1.0] * 4]
    assert module.columns[1].weight.tolist() == [[1.0] * 4]
    assert module.columns[2].training


def test_a_frozen_part_joins_without_the_optimizer() -> None:
    class Frozen(Grows):
        def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, *rest: Any) -> None:
            if trainer.global_step == self.step:
                assert grow(pl_module, "columns.1", column().requires_grad_(False)) == {}

    module = trained(StockColumns(), Frozen(2))
    assert len(module.trainer.optimizers[0].param_groups) == 1
    assert module.columns[1].weight.tolist() == [[0.5] * 4]


class Two(StockColumns):
    def __init__(self) -> None:
        super().__init__()
        self.automatic_optimization = False

    def configure_optimizers(self) -> Any:
        return [torch.optim.SGD(self.parameters(), lr=0.1) for _ in range(2)]


class Wrapping(SingleDeviceStrategy):
    """Keeps the module in a wrapper, as DDP does."""

    def setup(self, trainer: Trainer) -> None:
        super().setup(trainer)
        self.model = nn.Sequential(self.model)  # type: ignore[assignment,arg-type]


@pytest.mark.parametrize(
    ("module", "arguments", "said"),
    [
        (Two, {}, "grow: the module has several optimizers"),
        (
            StockColumns,
            {"strategy": Wrapping(), "limit_val_batches": 0},
            "grow: Sequential wraps the module",
        ),
        (
            lambda: StockColumns(scheduled=lambda o: torch.optim.lr_scheduler.OneCycleLR(o, 0.1, total_steps=9)),
            {},
            "grow: a new part cannot follow the schedule OneCycleLR; use `schedule:` or LambdaLR",
        ),
        (
            lambda: StockColumns(
                grouped=True,
                scheduled=lambda o: torch.optim.lr_scheduler.LambdaLR(o, [lambda step: 1.0, lambda step: 2.0]),
            ),
            {},
            "grow: LambdaLR has a factor for each group, and none for a new part; give it one",
        ),
    ],
)
def test_what_cannot_grow_is_refused_and_left_as_it_was(module: Any, arguments: Any, said: str) -> None:
    made = module()
    with pytest.raises(RefusedError, match=said):
        trained(made, Grows(0), **arguments)
    assert len(made.columns) == 1


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("columns.0", "grow: columns.0: the name is taken; choose another"),
        ("rows.0", "grow: rows.0: the module has no 'rows' to attach to"),
    ],
)
def test_names_that_cannot_be(name: str, said: str) -> None:
    with pytest.raises(RefusedError, match=said):
        grow(Columns(), name, column())


def test_a_transform_may_not_put_parameters_elsewhere() -> None:
    def elsewhere(module: nn.Module, context: Any) -> None:
        module.extra = nn.Linear(1, 1, bias=False)

    module = StockColumns()
    module.module_phases = ModulePhases({"surgery": [elsewhere]})
    module.configure_model()
    with pytest.raises(RefusedError, match=r"grow: columns.1: a transform put extra.weight outside of it"):
        grow(module, "columns.1", column())


def test_a_part_on_the_meta_device_is_materialised() -> None:
    def materialise(module: nn.Module, context: Any) -> None:
        if any(p.is_meta for p in module.parameters()):
            module.to_empty(device="cpu")
            phased.randomise(module, context)

    module = StockColumns()
    module.module_phases = ModulePhases({"materialise": [materialise]})
    module.configure_model()
    with torch.device("meta"):
        new = nn.Linear(4, 1)
    grow(module, "columns.1", new)
    # uniform_() draws from [0, 1).
    assert (module.columns[1].weight >= 0).all()
    assert not torch.equal(module.columns[1].weight, torch.zeros(1, 4))


def test_each_part_has_draws_of_its_own() -> None:
    grown = []
    for _ in range(2):
        module = StockColumns()
        module.module_phases = ModulePhases({"surgery": [phased.randomise]}, seed=1)
        module.configure_model()
        grow(module, "columns.1", column())
        grow(module, "columns.2", column())
        grown.append([layer.weight for layer in module.columns])
    assert all(map(torch.equal, *grown))
    # Twelve draws of 24 bits each: a repeat is less likely than 1e-5.
    assert len(torch.cat(grown[0]).unique()) == 12


class Freezes(Grows):
    """Freezes the first column, as a feature that grows does, and notes what callbacks are told."""

    def on_train_batch_start(self, trainer: Trainer, pl_module: Any, batch: Any, batch_idx: int) -> None:
        if trainer.global_step == self.step:
            self.before = trainer.optimizers[0], trainer.optimizers[0].param_groups, trainer.optimizers[0].state
            pl_module.columns[0].requires_grad_(False)
            pl_module.columns[0].zero_grad()
        super().on_train_batch_start(trainer, pl_module, batch, batch_idx)

    def on_grown(self, trainer: Trainer, module: Any, names: tuple[str, ...]) -> None:
        self.told = names


@pytest.mark.parametrize("scheduled", [None, lambda o: torch.optim.lr_scheduler.LambdaLR(o, lambda step: 0.5**step)])
def test_the_optimizer_is_as_a_new_one_of_the_grown_module(scheduled: Any) -> None:
    module = StockColumns(grouped=True, scheduled=scheduled)
    grows = Freezes(3)
    trained(module, grows, check_val_every_n_epoch=1)
    optimizer, groups, state = grows.before
    assert module.trainer.optimizers == [optimizer]
    assert optimizer.param_groups is groups
    assert optimizer.state is state
    new = module.configure_optimizers()[0][0]
    assert [group["params"] for group in groups] == [group["params"] for group in new.param_groups]
    assert set(state) == {module.columns[1].weight, module.columns[1].bias}  # what is frozen has left nothing
    assert grows.told == ("columns.1.weight", "columns.1.bias")
    if scheduled is not None:
        # By epochs, of which none has ended after six steps of eight: the peak rate in each group.
        (config,) = module.trainer.lr_scheduler_configs
        assert config.scheduler.base_lrs == [0.1, 0.1]
        assert len(config.scheduler.lr_lambdas) == 2
        assert [group["lr"] for group in groups] == config.scheduler.get_last_lr() == [0.1, 0.1]


def test_an_optimizer_made_outside_of_the_recipe() -> None:
    """It has one group, whose settings the new part takes; with several `groups=` is asked for."""
    for several in (False, True):
        module = StockColumns(grouped=several)
        optimizer = module.configure_optimizers()[0][0]
        module.optimizer_part = optimizer
        module.configure_optimizers = lambda one=optimizer: one
        if several:
            with pytest.raises(RefusedError, match="several groups; say how it groups parameters, with `groups=`"):
                trained(module, Grows(0))
            assert len(module.columns) == 1
        else:
            trained(module, Grows(3))
            assert len(optimizer.param_groups[0]["params"]) == 4
