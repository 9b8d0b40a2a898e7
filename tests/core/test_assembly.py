"""From a recipe to a run that trains."""

from __future__ import annotations

import copy
import pickle
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import tiny
import torch
from lightning import LightningDataModule, Trainer

from trustformers_pl.errors import DataError, RecipeError, RefusedError
from trustformers_pl.factory import assemble

if TYPE_CHECKING:
    from trustformers_pl.run import Run

Write = Callable[..., str]
Install = Callable[..., None]


def trained(recipe: object, *overrides: str) -> Run:
    run = assemble(recipe, overrides)  # type: ignore[arg-type]
    run.fit("never")
    return run


def weights(run: Run) -> dict[str, torch.Tensor]:
    return {name: value.clone() for name, value in run.module.state_dict().items()}


def test_the_same_seed_gives_the_same_bits_and_another_one_others(write: Write) -> None:
    first, again, other = (weights(trained(write(), f"seed={seed}")) for seed in (1, 1, 2))
    for name in first:
        assert torch.equal(first[name], again[name])
        assert not torch.equal(first[name], other[name])


def test_sections_in_another_order_give_the_same_run(write: Write) -> None:
    text = Path(write()).read_text()
    head, *sections = (
        text.replace("\nmodel", "\0model")
        .replace("\ndata", "\0data")
        .replace("\ntrainer", "\0trainer")
        .replace("\noptimizer", "\0optimizer")
        .split("\0")
    )
    turned = "\n".join([*reversed([section.strip("\n") for section in sections]), head]) + "\n"
    assert turned.startswith("optimizer")
    first = weights(trained(write()))
    second = weights(trained(write(turned)))
    assert all(torch.equal(first[name], second[name]) for name in first)


def test_a_plain_module_trains_as_in_a_stock_trainer(write: Write) -> None:
    """Without features nothing is wrapped: the bits are those of `lightning.Trainer` with the same batches."""
    sections = {
        "model": {"class_path": "tiny.Plain"},
        "data": {"class_path": "tiny.Data", "init_args": {"shuffle": False}},
    }
    run = trained({**sections, "trainer": {"max_steps": 10, "accelerator": "cpu"}})
    assert type(run.module) is tiny.Plain
    from lightning import seed_everything
    from lightning.pytorch.plugins.environments import LightningEnvironment

    seed_everything(0, verbose=False)
    module = tiny.Plain()
    stock = Trainer(
        max_steps=10,
        accelerator="cpu",
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        plugins=[LightningEnvironment()],
    )
    stock.fit(module, datamodule=tiny.Data(shuffle=False))
    assert all(torch.equal(value, module.state_dict()[name]) for name, value in run.module.state_dict().items())


def test_forward_and_loss_are_enough(write: Write) -> None:
    text = Path(write()).read_text().replace("tiny.Composable", "tiny.OnlyForwardAndLoss")
    with_mixin, without = weights(trained(write())), weights(trained(write(text)))
    assert all(torch.equal(with_mixin[name], without[name]) for name in with_mixin)


def test_the_composed_class_is_one_that_a_person_could_have_typed(write: Write, tmp_path: Path) -> None:
    run = trained(write())
    module = run.module
    assert type(module).__name__ == "Composable+ConfiguredOptimizers"
    assert set(module.state_dict()) == set(tiny.Composable().state_dict())
    for clone in (pickle.loads(pickle.dumps(module)), copy.deepcopy(module)):
        assert type(clone) is type(module)
        assert all(torch.equal(a, b) for a, b in zip(clone.parameters(), module.parameters(), strict=True))
    plain = tiny.Composable()
    plain.load_state_dict(module.state_dict())
    assert torch.equal(plain.layer.weight, module.layer.weight)  # type: ignore[union-attr,attr-defined]


TERM = """
    from trustformers_pl import LossTerm, Plugin, Traits, hookimpl, part
    def size(module, outputs, batch):
        weight = module.layer.weight
        return (weight ** 2).sum(), weight.new_tensor(weight.numel())
    def double(module, batch):
        from trustformers_pl.steps import sequential
        loss, contributions = sequential(module, batch)
        return 2 * loss, contributions
    def executor():
        return double
    class Shrink(Plugin):
        "Adds the mean squared weight to the loss."
        @hookimpl
        def loss_terms(self, plan):
            return [part("term_pack:LossTerm", "size", size, weight=10.0)]
    class Double(Plugin):
        "Doubles the loss."
        @classmethod
        def traits(cls, config):
            return Traits(claims=frozenset({"step"}))
        @hookimpl
        def step(self, plan):
            return part("term_pack:executor")
    class Big:
        pass
    class Mixed(Plugin):
        "Adds a base class."
        @hookimpl
        def module_mixins(self, plan):
            return ["term_pack:Big"]
"""


def test_loss_terms_mixins_and_the_step_slot_reach_the_module(write: Write, install: Install) -> None:
    install("term-pack", TERM, trustformers_pl={"shrink": "Shrink", "double": "Double", "mixed": "Mixed"})
    run = assemble(write(more="shrink: {}\ndouble: {}\nmixed: {}\n"))
    module = run.module
    batch = next(iter(run.datamodule.train_dataloader()))  # type: ignore[union-attr]
    result = module.training_step(batch, 0)
    # By hand, from the definition in the plugin above: loss = 2 (mean squared error + 10 mean squared weight).
    error = ((module.layer(batch[0]) - batch[1]) ** 2).mean()  # type: ignore[operator]
    size = (module.layer.weight**2).mean()  # type: ignore[union-attr,operator]
    assert torch.allclose(result["size"], size)
    assert torch.allclose(result["loss"], 2 * (error + 10 * size))
    assert type(module).__name__ == "Composable+Big+ConfiguredOptimizers"


def test_what_needs_a_decomposed_loss_refuses_a_plain_training_step(write: Write, install: Install) -> None:
    install("term-pack", TERM, trustformers_pl={"shrink": "Shrink"})
    text = Path(write()).read_text().replace("tiny.Composable", "tiny.Plain")
    with pytest.raises(RefusedError) as caught:
        assemble(write(text, "shrink: {}\n"))
    assert str(caught.value) == (
        "recipe.yaml:10: shrink needs decomposed-loss, which Plain does not provide; give the module `forward(batch)` and "
        "`loss(outputs, batch) -> (sum, count)`, and no training_step, in it or a mixin, that does not call super(), or "
        "remove the section"
    )


def test_a_strategy_comes_from_a_hook(write: Write, install: Install) -> None:
    source = """
    from trustformers_pl import Plugin, Traits, hookimpl, part
    class Feature(Plugin):
        "One device, said the long way."
        @classmethod
        def traits(cls, config):
            return Traits(claims=frozenset({"strategy"}))
        @hookimpl
        def strategy(self, plan):
            return part("lightning.pytorch.strategies:SingleDeviceStrategy", device="cpu")
    """
    install("one-pack", source, trustformers_pl={"one": "Feature"})
    assert type(trained(write(more="one: {}\n")).trainer.strategy).__name__ == "SingleDeviceStrategy"


def test_own_callbacks_are_trainer_arguments(write: Write) -> None:
    timer = "[{class_path: lightning.pytorch.callbacks.Timer, init_args: {duration: '00:01:00:00'}}]"
    text = Path(write()).read_text().replace("max_steps: 6", f"max_steps: 6\n  callbacks: {timer}")
    run = trained(write(text))
    assert [type(callback).__name__ for callback in run.trainer.callbacks] == ["Timer"]  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        (
            "tiny.Composable",
            "nowhere.Model",
            "recipe.yaml:3: model.class_path: cannot import 'nowhere': ModuleNotFoundError",
        ),
        (
            "tiny.Composable",
            "tiny.Composible",
            "recipe.yaml:3: model.class_path: tiny has no 'Composible'; did you mean",
        ),
        (
            "tiny.Composable",
            "tiny.NOT_A_MODULE",
            "recipe.yaml:3: model.class_path: tiny.NOT_A_MODULE is not a LightningModule",
        ),
        (
            "tiny.Composable",
            "torch.nn.Linear",
            "recipe.yaml:3: model.class_path: torch.nn.Linear is not a LightningModule",
        ),
        ("tiny.Composable", "tiny.Raises", "recipe.yaml:3: model: tiny.Raises raised KeyError: 'no such size'"),
        (
            "tiny.Data",
            "tiny.Composable",
            "recipe.yaml:5: data.class_path: tiny.Composable is not a LightningDataModule",
        ),
        (
            "tiny.Data",
            "tiny.Data\n  init_args: {cuont: 3}",
            "recipe.yaml:6: data.init_args.cuont: Data takes no such argument; did you mean 'count'?",
        ),
        ("tiny.Data", "tiny.Data\n  init_args: {count: many}", "recipe.yaml:6: data: tiny.Data: .*count.*int"),
        ("accelerator: cpu", "accelerator: abacus", "recipe.yaml:6: trainer: Lightning refuses this: .*abacus"),
        (
            "optimizer: {name: adamw}",
            "schedule: {name: cosine}",
            "recipe.yaml:9: schedule.cosine needs optimizer, which nothing",
        ),
        ("tiny.Composable", "tiny.Unoptimized", ""),
    ],
)
def test_classes_that_cannot_be_built(write: Write, old: str, new: str, said: str) -> None:
    text = Path(write()).read_text().replace(old, new)
    if not said:
        text, said = (
            text.replace("optimizer: {name: adamw}", ""),
            "Unoptimized configures no optimizer and the recipe has no",
        )
    with pytest.raises((RecipeError, RefusedError), match=said) as caught:
        assemble(write(text))
    assert "\n" not in str(caught.value)


def test_an_empty_dataset_is_refused_not_silently_finished(write: Write) -> None:
    text = Path(write()).read_text().replace("tiny.Data", "tiny.Data\n  init_args: {count: 0}")
    with pytest.raises(DataError, match=r"data: the training dataset gives no batch \(empty\); give more data"):
        trained(write(text))


def test_no_model(write: Write) -> None:
    with pytest.raises(RefusedError, match=r"no section `model`; add `model: \{class_path: my_package\.MyModule\}`"):
        assemble(write("seed: 1\n"))


def test_data_may_come_from_the_module(write: Write) -> None:
    class Own(tiny.Plain):
        def train_dataloader(self) -> object:
            return tiny.Data(shuffle=False).train_dataloader()

    tiny.Own = Own  # type: ignore[attr-defined]
    run = trained({"model": {"class_path": "tiny.Own"}, "trainer": {"max_steps": 2, "accelerator": "cpu"}})
    assert run.datamodule is None
    assert run.trainer.global_step == 2


def test_data_without_validation(write: Write) -> None:
    class TrainingOnly(tiny.Data):
        val_dataloader = LightningDataModule.val_dataloader

    tiny.TrainingOnly = TrainingOnly  # type: ignore[attr-defined]
    text = Path(write()).read_text().replace("tiny.Data", "tiny.TrainingOnly")
    assert trained(write(text)).trainer.global_step == 6


def test_where_mpi4py_has_no_mpi_library(write: Write) -> None:
    """A stock Trainer dies there: mpi4py imports, and `from mpi4py import MPI` raises RuntimeError."""
    folder = Path("fake/mpi4py")
    folder.mkdir(parents=True)
    (folder / "__init__.py").write_text("")
    (folder / "MPI.py").write_text("raise RuntimeError('cannot load MPI library')\n")
    info = Path("fake/mpi4py-4.1.0.dist-info")
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: mpi4py\nVersion: 4.1.0\n")
    tests = Path(__file__).parent.parent
    environment = {"PYTHONPATH": f"fake:{tests}", "PATH": "/usr/bin:/bin"}
    stock = "import lightning\nlightning.Trainer(accelerator='cpu', logger=False)"
    ours = f"from trustformers_pl import assemble\nassemble({write()!r}).fit()\nprint('trained')"
    dies = subprocess.run([sys.executable, "-c", stock], capture_output=True, text=True, env=environment, check=False)
    assert "cannot load MPI library" in dies.stderr
    lives = subprocess.run([sys.executable, "-c", ours], capture_output=True, text=True, env=environment, check=False)
    assert lives.stdout.endswith("trained\n"), lives.stderr
