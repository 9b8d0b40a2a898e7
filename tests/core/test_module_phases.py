"""Transforms of the module: their order, what they may do, and that the run is the one a person would have written."""

from __future__ import annotations

import copy
import pickle
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import phased
import pytest
import tiny
import torch
from lightning import Trainer, seed_everything
from lightning.pytorch.plugins.environments import LightningEnvironment
from torch import Tensor, nn

from trustformers_pl import ModulePhase, ModulePhases, PhasedModule, assemble
from trustformers_pl.data import resumable_datamodule
from trustformers_pl.errors import PluginError, RefusedError
from trustformers_pl.module_phases import Transform

Write = Callable[..., str]
Install = Callable[..., None]
Command = Callable[..., tuple[int, str, str]]
STRUCTURAL = "provides=frozenset({'module-structure'})"
RECIPE: dict[str, Any] = {
    "model": {"class_path": "tiny.Composable"},
    "data": {"class_path": "tiny.Data"},
    "trainer": {"max_steps": 6, "accelerator": "cpu"},
    "optimizer": {"name": "adamw", "lr": 0.1},
}


def surgeon(install: Install, section: str, answer: str, traits: str = "", phase: str = "surgery") -> None:
    source = phased.feature("modify_module", phase, answer, traits)
    install(f"{section}-pack", source, trustformers_pl={section: "Feature"})


def stock(**arguments: Any) -> Trainer:
    quiet = {"enable_checkpointing": False, "enable_progress_bar": False, "enable_model_summary": False}
    return Trainer(
        accelerator="cpu", logger=False, plugins=[LightningEnvironment()], **{"max_steps": 6, **quiet, **arguments}
    )


class PhasedPlain(PhasedModule, tiny.Plain):
    """As a person types it."""

    def validation_step(self, batch: list[Tensor], batch_idx: int) -> Tensor:
        return self.training_step(batch, batch_idx)


def test_the_phases_are_in_the_fields_order() -> None:
    # Source: the order in which torchtitan's parallelize functions and PEFT's and torchao's guides apply them.
    assert [phase.value for phase in ModulePhase] == [
        "surgery",
        "split",
        "tensor_parallel",
        "activation_checkpointing",
        "compile",
        "shard",
        "materialise",
    ]


@pytest.mark.parametrize(("later", "expected"), [("shift", 2 * 3 + 1), ("scale", (3 + 1) * 2)])
def test_surgeons_operate_by_after(install: Install, later: str, expected: float) -> None:
    after = dict.fromkeys(("scale", "shift"), "")
    after[later] = f"after=frozenset({{'{'scale' if later == 'shift' else 'shift'}'}})"
    surgeon(install, "scale", "part('phased:Scale', 2.0)", after["scale"])
    surgeon(install, "shift", "part('phased:Shift', 1.0)", after["shift"])
    run = assemble({**RECIPE, "scale": {}, "shift": {}})
    nn.init.constant_(run.module.layer.weight, 3.0)
    run.module.configure_model()
    # By hand, in the parametrisation.
    assert run.module.layer.weight.tolist() == [[expected] * 4]
    run.module.configure_model()
    assert run.module.layer.weight.tolist() == [[expected] * 4]


def test_phases_are_stronger_than_plugin_order(install: Install) -> None:
    """The compiling plugin is called first, and wants to be; it compiles what the surgeon put in all the same."""
    surgeon(install, "aaa", "phased.compile_linears", phase="compile")
    surgeon(install, "zzz", "phased.adapt", f"{STRUCTURAL}, after=frozenset({{'aaa'}})")
    run = assemble({**RECIPE, "aaa": {}, "zzz": {}})
    assert [plugin.name for plugin in run.assembly.plan.plugins][:2] == ["aaa", "optimizer.adamw"]
    assert [plugin.name for plugin in run.assembly.plan.plugins][-1] == "zzz"
    run.fit()
    assert phased.compiled(run.module) == ["layer.base", "layer.beside"]
    assert sorted(run.module.state_dict()) == ["layer.base.bias", "layer.base.weight", "layer.beside.weight"]


class Adapted(tiny.Composable):
    """The adapter written in by hand, as a reference."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = phased.Adapter(self.layer)

    def configure_optimizers(self) -> Any:
        return torch.optim.AdamW([self.layer.beside.weight], lr=0.1)


def test_a_recipe_trains_what_a_person_would_have_written(install: Install) -> None:
    surgeon(install, "adapter", "phased.adapt", STRUCTURAL)
    run = assemble({**RECIPE, "adapter": {}})
    run.fit()
    seed_everything(0, workers=True, verbose=False)
    by_hand = Adapted()
    stock().fit(by_hand, datamodule=resumable_datamodule(tiny.Data(), seed=0))
    # Source: a stock Trainer with torch's AdamW on the module with the adapter written in.
    assert run.module.state_dict().keys() == by_hand.state_dict().keys()
    for name, value in by_hand.state_dict().items():
        assert torch.equal(run.module.state_dict()[name], value), name
    assert by_hand.layer.beside.weight.abs().min() > 0


def test_in_a_stock_trainer_once_over_fit_and_validate() -> None:
    module = PhasedPlain()
    nn.init.constant_(module.layer.weight, 3.0)
    seen: list[Any] = []

    def look(given: nn.Module, context: Any) -> None:
        seen.append((context.phase, context.mesh, context.seed, given.layer.weight[0, 0].item()))

    phases = {"shard": [look], "surgery": [phased.Scale(2.0), phased.Shift(1.0)]}
    module.module_phases = ModulePhases(phases, seed=7)
    trainer = stock(limit_val_batches=0)
    trainer.fit(module, datamodule=tiny.Data())
    trainer.validate(module, datamodule=tiny.Data(), verbose=False)
    # By hand: 3 * 2 + 1.
    assert seen == [(ModulePhase.SHARD, None, 7, 7.0)]


def test_a_module_without_phases_is_left_alone() -> None:
    module = PhasedPlain()
    before = module.layer.weight.clone()
    module.configure_model()
    assert torch.equal(module.layer.weight, before)


def test_the_users_own_configure_model_comes_first() -> None:
    class Late(tiny.Plain):
        def configure_model(self) -> None:
            self.layer = nn.Linear(1, 1)
            nn.init.constant_(self.layer.weight, 5.0)

    class PhasedLate(PhasedModule, Late):
        pass

    module = PhasedLate()
    module.module_phases = ModulePhases({"surgery": [phased.Scale(2.0)]})
    module.configure_model()
    assert module.layer.weight.item() == 10.0


def test_what_a_transform_draws_neither_depends_on_others_nor_disturbs_them() -> None:
    drawn = []
    for others in ([], [phased.Shift(1.0)]):
        module = PhasedPlain()
        module.module_phases = ModulePhases({"surgery": [*others, phased.randomise]}, seed=3)
        torch.manual_seed(len(others))
        state = torch.get_rng_state()
        module.configure_model()
        assert torch.equal(torch.get_rng_state(), state)
        drawn.append(module.layer.weight.clone())
    assert torch.equal(*drawn)
    other = PhasedPlain()
    ModulePhases({"surgery": [phased.randomise]}, seed=4).apply(other)
    assert not torch.equal(other.layer.weight, drawn[0])


def test_a_copy_and_a_pickle_went_through_too() -> None:
    module = PhasedPlain()
    nn.init.constant_(module.layer.weight, 3.0)
    module.module_phases = ModulePhases({"surgery": [phased.Scale(2.0)]})
    module.configure_model()
    for other in (copy.deepcopy(module), pickle.loads(pickle.dumps(module))):
        other.configure_model()
        assert other.layer.weight.tolist() == [[6.0] * 4]


def wrap(module: Any, context: Any) -> None:
    module.layer = nn.Sequential(module.layer)


def add(module: Any, context: Any) -> None:
    module.extra = nn.Linear(1, 1, bias=False)


def drop(module: Any, context: Any) -> None:
    module.layer.bias = None


def thaw(module: Any, context: Any) -> None:
    module.layer.bias.requires_grad_(True)


def another(module: Any, context: Any) -> Any:
    return nn.Linear(1, 1)


@pytest.mark.parametrize(
    ("phase", "transform", "said"),
    [
        (
            "compile",
            wrap,
            "lora: its COMPILE transform loses layer.bias, layer.weight and adds layer.0.bias, layer.0.weight; "
            "the names of parameters stay as they are after SURGERY",
        ),
        ("split", wrap, "lora: its SPLIT transform loses layer.bias, layer.weight and adds layer.0.bias, layer.0."),
        ("shard", add, "lora: its SHARD transform adds extra.weight; the names of parameters stay"),
        ("materialise", drop, "lora: its MATERIALISE transform loses layer.bias; the names of parameters stay"),
        ("tensor_parallel", thaw, "lora: its TENSOR_PARALLEL transform makes layer.bias trainable; only SURGERY may"),
        (
            "surgery",
            another,
            "lora: its SURGERY transform returns another Linear in place of Plain; replace its submodules instead",
        ),
        (
            "surgery",
            wrap,
            "lora: its SURGERY transform changes the structure of the module (layer.0.bias, layer.0.weight, layer.bias "
            "and 1 more), and the plugin's traits do not provide 'module-structure'; add it to them",
        ),
        (
            "surgery",
            drop,
            "lora: its SURGERY transform changes the structure of the module (layer.bias), and the plugin's traits",
        ),
    ],
)
def test_what_a_transform_may_not_do(phase: str, transform: Any, said: str) -> None:
    module = tiny.Plain()
    module.layer.bias.requires_grad_(False)
    with pytest.raises(RefusedError) as caught:
        ModulePhases({phase: [Transform(transform, "lora")]}).apply(module)
    assert str(caught.value).startswith(said)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("phase", "transform", "names"),
    [
        ("surgery", wrap, ["layer.0.weight", "layer.0.bias"]),
        ("surgery", add, ["layer.weight", "layer.bias", "extra.weight"]),
        ("split", drop, ["layer.weight"]),
    ],
)
def test_what_a_transform_may_do(phase: str, transform: Any, names: list[str]) -> None:
    module = tiny.Plain()
    ModulePhases({phase: [Transform(transform, "lora", changes_structure=True)]}).apply(module)
    assert [name for name, _ in module.named_parameters()] == names


def test_structure_is_a_matter_of_the_plugins_traits(install: Install) -> None:
    surgeon(install, "lora", "phased.adapt")
    run = assemble({**RECIPE, "lora": {}})
    with pytest.raises(RefusedError, match="lora: its SURGERY transform changes the structure of the module"):
        run.fit()


def test_one_transform_in_two_phases_is_refused(install: Install) -> None:
    source = """
    from trustformers_pl import Plugin, hookimpl, part
    class Feature(Plugin):
        @hookimpl
        def modify_module(self, phase):
            return [part("phased:Scale", 2.0)]
    """
    install("scale-pack", source, trustformers_pl={"scale": "Feature"})
    with pytest.raises(
        PluginError,
        match="plugin 'scale' answers modify_module with the same transform in SURGERY and SPLIT; answer in one phase",
    ):
        assemble({**RECIPE, "scale": {}})


def test_a_live_module_of_an_earlier_run_is_refused() -> None:
    module = tiny.Plain()
    ModulePhases({"surgery": [phased.Scale(2.0)]}).apply(module)
    with pytest.raises(RefusedError, match="Plain: went through the phases of an earlier run already; give this run"):
        ModulePhases({"surgery": [phased.Scale(2.0)]}).apply(module)


def test_an_unknown_phase_is_refused() -> None:
    with pytest.raises(ValueError, match="'operation' is not a valid ModulePhase"):
        ModulePhases({"operation": []})


def test_the_python_that_explain_prints_trains_the_same_weights(
    install: Install, write: Write, command: Command
) -> None:
    surgeon(install, "adapter", "phased.adapt", STRUCTURAL)
    surgeon(install, "scale", "part('phased:Scale', factor=2.0)", "after=frozenset({'adapter'})")
    recipe = write(more="checkpoint: {}\nadapter: {}\nscale: {}\n")
    script = command("explain", recipe)[1].partition("# The same run as Python:\n")[2]
    assert "Transform(adapt, plugin='adapter', changes_structure=True)" in script
    assert command("fit", recipe)[0] == 0
    Path("runs/recipe").rename("by_recipe")
    Path("script.py").write_text(script)
    environment = {"PATH": "/usr/bin:/bin", "PYTHONPATH": ":".join(sys.path), "OMP_NUM_THREADS": "1"}
    done = subprocess.run([sys.executable, "script.py"], env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    name = "checkpoints/step-00000006/tensors.safetensors"
    assert Path("runs/recipe", name).read_bytes() == Path("by_recipe", name).read_bytes()


def test_checkpoints_load_into_the_phased_module(install: Install, write: Write) -> None:
    surgeon(install, "adapter", "phased.adapt", STRUCTURAL)
    recipe = write(more="checkpoint: {every_n_steps: 1}\nadapter: {}\n")
    whole = assemble(recipe)
    whole.fit()
    loaded = assemble(recipe)
    loaded.load_weights()
    for name, value in whole.module.state_dict().items():
        assert torch.equal(loaded.module.state_dict()[name], value)
    assert assemble(recipe).validate().keys() == {"val_loss"}
    shutil.rmtree("runs/recipe/checkpoints/step-00000006")
    resumed = assemble(recipe)
    resumed.fit()
    for name, value in whole.module.state_dict().items():
        assert torch.equal(resumed.module.state_dict()[name], value)
