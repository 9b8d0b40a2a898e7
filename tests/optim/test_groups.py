"""Groups by name and depth, freezing, and gradual unfreezing."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
import torch
from lightning import Trainer
from lightning.pytorch.plugins.environments import LightningEnvironment
from tiny import Data, Deep
from torch import nn

from trustformers_pl.errors import RecipeError, RefusedError
from trustformers_pl.factory import assemble
from trustformers_pl.models import GPT
from trustformers_pl.optim import SGD, GradualUnfreezing, decay_groups, freeze, parameter_groups

if TYPE_CHECKING:
    from pathlib import Path

    from trustformers_pl.run import Run
from trustformers_pl.testing import Ranks
from trustformers_pl.testing.on_ranks import train_on_rank
from trustformers_pl.testing.trial import digest

RECIPE: dict[str, Any] = {
    "model": {
        "class_path": "trustformers_pl.models.GPT",
        "init_args": {"d_model": 8, "n_layers": 2, "n_heads": 2, "context_length": 8},
    },
    "data": {"class_path": "trustformers_pl.testing.TinyText"},
    "trainer": {"max_steps": 4, "accelerator": "cpu", "limit_val_batches": 0},
}


def gpt() -> GPT:
    return GPT(d_model=8, n_layers=2, n_heads=2)


def settings(groups: list[dict[str, Any]], key: str) -> dict[str, float]:
    """Parameter -> its setting."""
    return {name: group[key] for group in groups for name, _ in group["params"]}


def test_without_wishes_the_groups_are_those_by_role() -> None:
    module = gpt()
    ours = settings(parameter_groups(module, lr=0.5, weight_decay=0.1), "weight_decay")
    assert ours == settings(decay_groups(module, weight_decay=0.1), "weight_decay")
    assert ours["norm.weight"] == 0.0
    assert ours["embedding.weight"] == 0.1


def test_later_overrides_win_and_the_last_word_is_the_patterns() -> None:
    overrides = [
        {"match": "blocks.*", "lr": 0.1},
        {"match": "blocks.1.*", "lr": 0.2, "weight_decay": 0.3},
        {"match": "embedding.weight", "weight_decay": 0.0},
    ]
    module = gpt()
    groups = parameter_groups(module, lr=1.0, weight_decay=0.1, overrides=overrides)
    rates, decays = settings(groups, "lr"), settings(groups, "weight_decay")
    assert rates.keys() == dict(module.named_parameters()).keys()
    assert {rates[name] for name in rates if name.startswith("blocks.0.")} == {0.1}
    assert {(rates[name], decays[name]) for name in rates if name.startswith("blocks.1.")} == {(0.2, 0.3)}
    assert (rates["embedding.weight"], decays["embedding.weight"]) == (1.0, 0.0)
    assert (rates["norm.weight"], decays["norm.weight"]) == (1.0, 0.0)


def test_rates_fall_with_depth() -> None:
    """ULMFiT's rule with a factor of 0.5 and two blocks: norm 1, block 1 a half, block 0 a quarter, embedding an eighth."""
    rates = settings(parameter_groups(gpt(), lr=8.0, weight_decay=0.0, layer_decay=0.5), "lr")
    by_place = {(name.rpartition(".")[0] if name[0] != "b" else name[:8]): rate for name, rate in rates.items()}
    assert by_place == {"embedding": 1.0, "blocks.0": 2.0, "blocks.1": 4.0, "norm": 8.0}


def test_depth_is_that_of_the_largest_stack() -> None:
    """The numbers in the head's names are no layers."""

    class Model(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.encoder = nn.Sequential(nn.Linear(8, 8), nn.Linear(8, 8), nn.Linear(8, 8))
            self.head = nn.Sequential(nn.Linear(8, 2), nn.Linear(2, 2))

    rates = settings(parameter_groups(Model(), lr=1.0, weight_decay=0.0, layer_decay=0.5), "lr")
    assert rates["encoder.0.weight"] == 0.125
    assert rates["encoder.2.bias"] == 0.5
    assert rates["head.0.weight"] == rates["head.1.weight"] == 1.0


def test_a_model_without_blocks_has_no_depth() -> None:
    with pytest.raises(RefusedError, match=r"optimizer\.layer_decay: Deep has no numbered blocks"):
        parameter_groups(Deep(), lr=1.0, weight_decay=0.0, layer_decay=0.9)


@pytest.mark.parametrize(
    ("optimizer", "message"),
    [
        ({"groups": [{"match": "block.*", "lr": 0.1}]}, r"optimizer.groups: 'block.\*' fits no parameter; "),
        (
            {"freeze": ["embeding.*"]},
            r"optimizer.freeze: 'embeding.\*' fits no parameter; did you mean 'embedding.weight'",
        ),
        ({"freeze": ["*"]}, "optimizer.freeze: nothing is left to train"),
    ],
)
def test_patterns_without_effect_are_refused_in_one_line(optimizer: dict[str, Any], message: str) -> None:
    run = assemble({**RECIPE, "optimizer": {"name": "adamw", **optimizer}})
    with pytest.raises(RefusedError, match=message) as refused:
        run.fit()
    assert len(str(refused.value).splitlines()) == 1
    assert run.trainer.global_step == 0


@pytest.mark.parametrize(
    ("optimizer", "message"),
    [
        ({"groups": [{"lr": 0.1}]}, "has no `match`"),
        ({"groups": [{"match": "*"}]}, "changes nothing"),
        ({"groups": [{"match": "*", "rl": 0.1}]}, "no such key 'rl'; did you mean 'lr'"),
        ({"groups": [{"match": "*", "lr": -0.1}]}, "must be a number that is not negative"),
        ({"layer_decay": 1.5}, "layer_decay must be above 0 and at most 1"),
        ({"weight_decay": -1.0}, "must not be negative"),
    ],
)
@pytest.mark.parametrize("name", ["sgd", "adam", "adamw", "lamb", "adafactor"])
def test_every_optimizer_checks_its_groups(name: str, optimizer: dict[str, Any], message: str) -> None:
    with pytest.raises(RecipeError, match=message) as refused:
        assemble({**RECIPE, "optimizer": {"name": name, **optimizer}})
    assert len(str(refused.value).splitlines()) == 1


@pytest.mark.parametrize(
    ("optimizer", "message"),
    [
        ({"name": "sgd", "nesterov": True}, "nesterov needs momentum"),
        ({"name": "sgd", "momentum": -0.1}, "momentum must not be negative"),
        ({"name": "adam", "betas": [0.9, 1.0]}, "betas must be in"),
        ({"name": "lamb", "eps": -1.0}, "eps must not be negative"),
        ({"name": "adafactor", "clip": 0.0}, "clip must be positive"),
        ({"name": "adafactor", "beta2_decay": 0.8}, "beta2_decay must not be positive"),
    ],
)
def test_every_optimizer_checks_its_own_keys(optimizer: dict[str, Any], message: str) -> None:
    with pytest.raises(RecipeError, match=message):
        assemble({**RECIPE, "optimizer": optimizer})


def trained(**sections: Any) -> tuple[Run, dict[str, torch.Tensor], dict[str, torch.Tensor]]:
    """A run that has ended, its weights before and after."""
    run = assemble({**RECIPE, **sections})
    before = {name: value.clone() for name, value in run.module.state_dict().items()}
    run.fit()
    return run, before, run.module.state_dict()


@pytest.mark.parametrize("name", ["sgd", "adam", "adamw", "lamb", "adafactor"])
def test_a_recipe_freezes_and_sets_rates_by_name(name: str) -> None:
    groups = [{"match": "blocks.1.*", "lr": 0.0, "weight_decay": 0.0}]
    section = {"name": name, "lr": 0.01, "groups": groups, "freeze": ["embedding.*"], "layer_decay": 0.5}
    run, before, after = trained(optimizer=section)
    changed = {name for name in before if not torch.equal(before[name], after[name])}
    assert changed == {name for name in before if name.startswith(("blocks.0.", "norm."))}
    rates = {group["lr"] for group in run.trainer.optimizers[0].param_groups}
    assert rates == {0.0, 0.0025, 0.01}


def test_adamw_takes_its_bias_correction_from_the_recipe() -> None:
    run, *_ = trained(optimizer={"name": "adamw", "correct_bias": False})
    assert run.trainer.optimizers[0].correct_bias is False  # type: ignore[attr-defined]


def test_layers_begin_to_train_at_their_step_or_epoch() -> None:
    """An epoch has 5 steps. SGD without momentum and decay: what is held does not move at all."""
    stages = [{"match": "*", "step": 3}, {"match": "blocks.0.*", "epoch": 1}, {"match": "norm.*", "step": 0}]
    moved: dict[int, set[str]] = {}
    for steps in (3, 4, 5, 6):
        trainer = {**RECIPE["trainer"], "max_steps": steps, "default_root_dir": f"run-{steps}"}
        run, before, after = trained(trainer=trainer, optimizer={"name": "sgd", "lr": 0.1}, unfreeze={"stages": stages})
        moved[steps] = {name.partition(".w")[0][:8] for name in before if not torch.equal(before[name], after[name])}
        assert (run.probe()["unfreeze"] or "").startswith("held ")
    assert moved[3] == {"norm"}
    assert moved[4] == moved[5] == {"norm", "embeddin", "blocks.1"}
    assert moved[6] == {"norm", "embeddin", "blocks.1", "blocks.0"}


def test_held_parameters_have_neither_state_nor_decay_nor_a_share_in_the_norm() -> None:
    """Two steps of AdamW with everything but the norm held are those of a run in which it is frozen."""
    held = {"unfreeze": {"stages": [{"match": "[eb]*", "step": 100}]}, "optimizer": {"name": "adamw", "lr": 0.1}}
    frozen = {"optimizer": {"name": "adamw", "lr": 0.1, "freeze": ["[eb]*"]}}
    trainer = {**RECIPE["trainer"], "max_steps": 2}
    clip = {"norm": 1e-3}
    one, _, weights = trained(**held, clip=clip, trainer={**trainer, "default_root_dir": "held"})
    _, _, expected = trained(**frozen, clip=clip, trainer={**trainer, "default_root_dir": "frozen"})
    assert all(torch.equal(weights[name], expected[name]) for name in weights)
    assert len(one.trainer.optimizers[0].state) == 1


@pytest.mark.parametrize(
    ("stages", "error", "message"),
    [
        ([], RecipeError, "stages is empty"),
        ([{"match": "norm.*"}], RecipeError, "give either `step` or `epoch`"),
        ([{"match": "norm.*", "step": 1, "epoch": 1}], RecipeError, "give either `step` or `epoch`"),
        ([{"match": "norm.*", "stepp": 1}], RecipeError, "no such key 'stepp'; did you mean 'step'"),
        ([{"step": 1}], RecipeError, "has no `match`"),
        (
            [{"match": "nrom.*", "step": 1}],
            RefusedError,
            r"unfreeze.stages: 'nrom.\*' fits no parameter; known: blocks",
        ),
        ([{"match": "*", "step": 1}], RefusedError, "nothing would train at step 0"),
    ],
)
def test_stages_that_cannot_be_meant_are_refused_in_one_line(stages: Any, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message) as refused:
        trained(optimizer={"name": "adamw"}, unfreeze={"stages": stages})
    assert len(str(refused.value).splitlines()) == 1


def test_in_a_stock_trainer() -> None:
    class Ours(Deep):
        def configure_optimizers(self) -> torch.optim.Optimizer:
            freeze(self, ["first.weight"])
            return SGD(parameter_groups(self, lr=0.1, weight_decay=0.0, overrides=[{"match": "last.*", "lr": 0.01}]))

    module = Ours(4)
    before = {name: value.clone() for name, value in module.state_dict().items()}
    unfreezing = GradualUnfreezing([{"match": "layer.*", "epoch": 1}])
    quiet = {"logger": False, "enable_checkpointing": False, "enable_progress_bar": False}
    trainer = Trainer(
        max_epochs=1, accelerator="cpu", plugins=[LightningEnvironment()], callbacks=[unfreezing], **quiet
    )
    trainer.fit(module, datamodule=Data())
    changed = {name for name, value in module.state_dict().items() if not torch.equal(value, before[name])}
    assert changed == {"first.bias", "last.weight", "last.bias"}
    assert unfreezing.held == 2 * 8


def test_two_ranks_freeze_the_same_before_they_are_wrapped(tmp_path: Path) -> None:
    """DDP would wait for the gradients of parameters that are frozen after it has looked."""
    sections = {
        **RECIPE,
        "trainer": {**RECIPE["trainer"], "devices": 2},
        "ddp": {},
        "optimizer": {"name": "lamb", "lr": 0.01, "freeze": ["embedding.*"], "layer_decay": 0.9},
    }
    start = assemble(sections).module.state_dict()
    one, other = Ranks().run(2, train_on_rank, sections, str(tmp_path / "ranks"))
    assert one.state == other.state
    same = {name for name, value in start.items() if one.state[f"weights.{name}"] == digest(value)}
    assert same == {"embedding.weight"}


def test_a_part_that_grows_need_not_fit_the_patterns_of_the_whole() -> None:
    """It comes in a bare `nn.Module`, under its full name: what fits it holds, what does not is no mistake."""
    alone = nn.Module()
    alone.add_module("blocks", nn.Module())
    alone.blocks.add_module("2", nn.Linear(2, 2))
    overrides = [{"match": "embedding.*", "lr": 0.1}, {"match": "blocks.2.*", "lr": 0.2}]
    assert set(settings(parameter_groups(alone, lr=1.0, weight_decay=0.0, overrides=overrides), "lr").values()) == {0.2}
    freeze(alone, ["embedding.*"])
    assert all(parameter.requires_grad for parameter in alone.parameters())
