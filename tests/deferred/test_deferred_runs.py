"""Deferred models in runs: the engine asks features for it, and where no strategy fills them they fill themselves."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import lightning as L
import phased
import pytest
import tiny
import tiny_deferred as blocks
import torch

from trustformers_pl import assemble
from trustformers_pl.assembly import Live
from trustformers_pl.checkpoint import load
from trustformers_pl.deferred import DeferredModule, deferred, deferred_record
from trustformers_pl.errors import RefusedError

if TYPE_CHECKING:
    from collections.abc import Callable

RECIPE = """\
version: 1
seed: 3
model: {class_path: trustformers_pl.models.GPT, init_args: {vocab_size: 256, d_model: 16, n_layers: 1, n_heads: 2, context_length: 8, dropout: 0.1}}
data: {class_path: trustformers_pl.data.TextData, init_args: {source: text.txt, context_length: 8, batch_size: 4, cache: cache}}
trainer: {max_steps: 4, accelerator: cpu, devices: 1, log_every_n_steps: 1}
optimizer: {name: adamw, lr: 0.01}
checkpoint: {every_n_steps: 2}
"""
# A stranger's feature: its strategy moves the module to its device while it has no values, and fills it there.
SOURCE = """
    from lightning.pytorch.strategies import SingleDeviceStrategy
    from trustformers_pl import Plugin, Traits, hookimpl, part
    from trustformers_pl.deferred import deferred_record, fill, note_values

    class Filling(SingleDeviceStrategy):
        fills_values = {fills}
        restore_checkpoint_after_setup = fills_values  # there must be memory to load into
        def model_to_device(self):
            if self.fills_values:
                assert all(parameter.is_meta for parameter in self.model.parameters())
                note_values(self.model)
                self.model.to_empty(device=self.root_device)
                for parameter in self.model.parameters():
                    parameter.data.fill_(float("nan"))
                Filling.most = fill(self.model)
            assert deferred_record(self.model) is None
            super().model_to_device()

    class Fills(Plugin):
        "Fills weights where they lie."
        @classmethod
        def traits(cls, config):
            return Traits(claims=frozenset({{'strategy'}}), provides=frozenset({{'deferred-values'}}))
        @hookimpl
        def strategy(self, plan):
            return part('fills_pack:Filling')
"""


@pytest.fixture
def recipe(write: Callable[..., str], install: Callable[..., None]) -> Callable[[bool], str]:
    def recipe_(fills: bool) -> str:
        install("fills-pack", SOURCE.format(fills=fills), trustformers_pl={"fills": "Fills"})
        Path("text.txt").write_text("the quick brown fox jumps over the lazy dog\n" * 20)
        return write(RECIPE)

    return recipe_


def surgeon(install: Callable[..., None], section: str, answer: str, phase: str = "surgery", more: str = "") -> None:
    source = phased.feature("modify_module", phase, answer, "provides=frozenset({'module-structure'})" + more)
    install(f"{section}-pack", source, trustformers_pl={section: "Feature"})


def weights(folder: str, step: int = 4) -> Any:
    return load(f"{folder}/checkpoints/step-{step:08d}")["state_dict"]


@pytest.mark.parametrize("fills", [True, False])
def test_a_run_is_the_same_bit_for_bit(recipe: Callable[[bool], str], fills: bool) -> None:
    path = recipe(fills)
    assemble(path, ["trainer.default_root_dir=plain"]).fit()
    run = assemble(path, ["trainer.default_root_dir=deferred", "fills={}"])
    assert deferred_record(run.module) is not None
    assert type(run.module).__name__.startswith("GPT+DeferredModule")
    run.fit()
    # Source: the same recipe, built in the ordinary way.
    assert blocks.differing(weights("deferred"), weights("plain")) == []
    assert blocks.differing(weights("deferred", 2), weights("plain", 2)) == []


@pytest.mark.parametrize("fills", [True, False])
def test_it_resumes_bit_for_bit(recipe: Callable[[bool], str], fills: bool) -> None:
    path = recipe(fills)
    assemble(path, ["trainer.default_root_dir=whole", "fills={}"]).fit()
    assemble(path, ["trainer.default_root_dir=parts", "fills={}", "trainer.max_steps=2"]).fit()
    second = assemble(path, ["trainer.default_root_dir=parts", "fills={}"])
    second.fit(resume="force")
    assert second.trainer.global_step == 4
    assert blocks.differing(weights("parts"), weights("whole")) == []


def test_other_commands_fill_what_no_strategy_does(recipe: Callable[[bool], str], command: Any) -> None:
    path = recipe(True)
    assemble(path, ["fills={}"]).fit()
    run = assemble(path, ["fills={}"])
    run.load_weights()
    assert blocks.differing(dict(run.module.state_dict()), weights("runs/recipe")) == []
    code, out, err = command("generate", path, "--fills={}", "--prompt=the", "--max-new-tokens=3", "--temperature=0")
    assert (code, err) == (0, "")
    assert out.startswith("the")


SECTIONS: dict[str, Any] = {
    "model": {"class_path": "tiny.Composable"},
    "data": {"class_path": "tiny.Data"},
    "trainer": {"max_steps": 3, "accelerator": "cpu", "devices": 1},
    "optimizer": {"name": "adamw", "lr": 0.1},
}


def fitted(sections: dict[str, Any], folder: str) -> dict[str, torch.Tensor]:
    run = assemble({**sections, "trainer": {**sections["trainer"], "default_root_dir": folder}})
    run.fit()
    return blocks.named(run.module)


@pytest.mark.parametrize("fills", [True, False])
def test_features_change_weights_that_have_no_values_yet(
    recipe: Callable[[bool], str], install: Callable[..., None], fills: bool
) -> None:
    recipe(fills)
    surgeon(install, "adapter", "phased.adapt")
    surgeon(install, "scale", "part('phased:Scale', 2.0)", more=", after=frozenset({'adapter'})")
    surgeon(install, "drawn", "phased.randomise", "materialise")
    for chosen in (("adapter",), ("adapter", "scale"), ("drawn",)):
        changed = {**SECTIONS, **{name: {} for name in chosen}}
        # Source: the same features on a module that has its values.
        found, expected = fitted({**changed, "fills": {}}, "deferred"), fitted(changed, "plain")
        assert blocks.differing(found, expected) == []


def test_a_feature_that_takes_values_out_of_torch_is_refused(
    recipe: Callable[[bool], str], install: Callable[..., None]
) -> None:
    recipe(True)
    surgeon(install, "outside", "__import__('test_deferred_runs').outside")
    with pytest.raises(
        RefusedError, match="outside: its SURGERY transform needs the values of weights, which are made"
    ):
        assemble({**SECTIONS, "fills": {}, "outside": {}}).fit()


def outside(module: Any, context: Any) -> None:
    module.layer.weight.detach().numpy()


def test_weights_of_another_run_are_loaded_before_sharding(recipe: Callable[[bool], str]) -> None:
    recipe(True)
    fitted({**SECTIONS, "checkpoint": {}}, "first")
    later = {**SECTIONS, "seed": 9, "pretrained": {"path": "first"}}
    assert blocks.differing(fitted({**later, "fills": {}}, "deferred"), fitted(later, "plain")) == []


def test_explain_builds_without_memory_and_without_draws(recipe: Callable[[bool], str], command: Any) -> None:
    before = torch.get_rng_state()
    code, out, _ = command("explain", recipe(True), "--fills={}", "--build")
    assert code == 0
    assert "GPT" in out
    assert torch.equal(torch.get_rng_state(), before)


def test_a_model_that_cannot_be_recorded_is_built_at_once(
    recipe: Callable[[bool], str], caplog: pytest.LogCaptureFixture
) -> None:
    recipe(False)
    sections = {"optimizer": {"name": "adamw"}, "fills": {}, "trainer": {"accelerator": "cpu"}}
    run = assemble({"model": {"class_path": "test_deferred_runs.ThroughNumpy"}, **sections})
    assert deferred_record(run.module) is None
    assert "ThroughNumpy is built with all its weights at once: it takes the values" in caplog.text


class ThroughNumpy(tiny.Composable):
    """Cannot be recorded."""

    def __init__(self) -> None:
        super().__init__()
        self.layer.weight.detach().numpy()


def test_a_live_model_that_was_built_so_is_filled() -> None:
    torch.manual_seed(1)
    ordinary = tiny.Composable()
    torch.manual_seed(1)
    with deferred():
        module = tiny.Composable()
    sections = {name: value for name, value in SECTIONS.items() if name != "model"}
    for live in (ordinary, module):
        run = assemble({**sections, "trainer": {**sections["trainer"], "max_steps": 3}}, live=Live(model=live))
        run.fit(resume="never")
    assert blocks.differing(blocks.named(module), blocks.named(ordinary)) == []


class Filled(DeferredModule, tiny.Plain):
    """For a stock Trainer."""


def test_in_a_stock_trainer() -> None:
    def trained(module: L.LightningModule) -> dict[str, torch.Tensor]:
        trainer = L.Trainer(
            max_steps=3, accelerator="cpu", logger=False, enable_checkpointing=False, enable_progress_bar=False,
            enable_model_summary=False,
        )  # fmt: skip
        torch.manual_seed(2)
        trainer.fit(module, tiny.Data())
        return blocks.named(module)

    torch.manual_seed(1)
    ordinary = tiny.Plain()
    torch.manual_seed(1)
    with deferred():
        module = Filled()
    assert blocks.differing(trained(module), trained(ordinary)) == []
