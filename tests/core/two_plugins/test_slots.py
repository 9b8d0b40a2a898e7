"""Two claimants of each slot are refused, and what only one answer can fill is never silently left out."""

from __future__ import annotations

from typing import Any

import pytest

from trustformers_pl.errors import PluginError, RefusedError
from trustformers_pl.factory import assemble
from trustformers_pl.traits import SLOTS_OF_HOOKS, Slot

OURS = {
    "optimizer": "optimizer: {name: adamw}",
    "schedule": "schedule: {name: cosine}",
    "checkpoints": "checkpoint: {}",
}
BARE = "model: {class_path: tiny.Composable}\ndata: {class_path: tiny.Data}\n"
SOURCE = """
    from trustformers_pl import Plugin, Traits, hookimpl, part
    class Feature(Plugin):
        "A stranger's."
        traits = classmethod(lambda cls, config: Traits({traits}))
        {hook} = hookimpl(lambda self, plan: {answer})
"""
SGD = 'part("torch.optim:SGD", [], lr=0.5)'


@pytest.mark.parametrize(("hook", "slot"), SLOTS_OF_HOOKS.items())
def test_two_answers_to_a_hook_that_takes_one(refused: Any, hook: str, slot: str) -> None:
    kind, said = refused(hook, zzz="None", aaa="None", claims=slot)
    assert kind is RefusedError
    line = f"recipe.yaml:11: zzz and aaa both claim {slot}; remove one of the two sections"
    assert line in said.splitlines()
    assert all(" both claim " in other for other in said.splitlines())


@pytest.mark.parametrize("slot", [Slot.DATA_BATCH, Slot.DATA_SHARD])
def test_two_owners_of_a_phase_of_the_data(refused: Any, slot: str) -> None:
    phase = slot.removeprefix("data-")
    assert refused("data", phase=phase, zzz="[len]", aaa="[max]", claims=slot) == (
        RefusedError,
        f"recipe.yaml:11: zzz and aaa both claim {slot}; remove one of the two sections",
    )


@pytest.mark.parametrize(
    ("slot", "ours", "hook"),
    [
        ("optimizer", "optimizer.adamw", "optimizer"),
        ("schedule", "schedule.cosine", "lr_schedule"),
        ("checkpoints", "checkpoint", "ckpt_path"),
        ("data-parallel", "zero", "mesh"),
    ],
)
def test_a_strangers_beside_our_own(write: Any, install: Any, slot: str, ours: str, hook: str) -> None:
    claims = f"claims=frozenset({{{slot!r}}})"
    install("odd-pack", SOURCE.format(traits=claims, hook=hook, answer="None"), trustformers_pl={"aaa": "Feature"})
    text = f"{BARE}{OURS['optimizer']}\n"
    text += "" if slot == "optimizer" else f"{OURS.get(slot, 'zero: {}')}\n"
    with pytest.raises(RefusedError) as caught:
        assemble(write(text, "aaa: {}\n"))
    number = 3 if slot == "optimizer" else 4
    assert str(caught.value) == (
        f"recipe.yaml:{number}: {ours} and aaa both claim {slot}; remove one of the two sections"
    )


def test_the_command_says_the_same(write: Any, install_two: Any, command: Any) -> None:
    install_two("step", zzz="None", aaa="None", claims="step")
    assert command("fit", write(more="aaa: {}\nzzz: {}\n"))[::2] == (
        2,
        "error: recipe.yaml:11: zzz and aaa both claim step; remove one of the two sections\n",
    )


def test_a_schedule_without_an_optimizer_of_the_run_is_refused(write: Any, install: Any) -> None:
    """The module has one of its own, which the schedule would never reach."""
    claims = "claims=frozenset({'schedule'})"
    source = SOURCE.format(traits=claims, hook="lr_schedule", answer='part("odd:schedule")')
    install("odd-pack", source, trustformers_pl={"warmup": "Feature"})
    with pytest.raises(RefusedError) as caught:
        assemble(write("model: {class_path: tiny.Plain}\nwarmup: {}\n"))
    assert str(caught.value) == (
        "recipe.yaml:2: warmup needs optimizer, which nothing in this run provides; add a section that does, or remove "
        "this one"
    )


def test_a_strangers_optimizer_serves_our_schedule_and_a_stock_trainer(write: Any, install: Any) -> None:
    """It implements the hook and claims the slot; that it provides the trait follows from the hook."""
    source = SOURCE.format(
        traits="claims=frozenset({'optimizer'})",
        hook="optimizer",
        answer="part('sgd_pack:made', Name('module'))",
    )
    source = source.replace("import Plugin", "import Name, Plugin") + (
        "    def made(module):\n        import torch\n        return torch.optim.SGD(module.parameters(), lr=0.5)\n"
    )
    install("sgd-pack", source, trustformers_pl={"sgd": "Feature"})
    steps = "trainer: {max_steps: 4, accelerator: cpu}\n"
    run = assemble(write(BARE + steps, "sgd: {}\nschedule: {name: cosine, warmup_steps: 2}\n"))
    run.fit()
    assert type(run.trainer.optimizers[0]).__name__ == "SGD"
    # By hand: half of a cosine has 2 steps left after the warm-up and ends at zero.
    assert run.trainer.optimizers[0].param_groups[0]["lr"] == pytest.approx(0.0, abs=1e-8)

    from sgd_pack import made  # type: ignore[import-not-found]
    from two_parts import Typed, stock

    import trustformers_pl.data
    from trustformers_pl import Name, part
    from trustformers_pl.optimization import ConfiguredOptimizers

    class ByHand(ConfiguredOptimizers, Typed):
        optimizer_part = part("sgd_pack:made", Name("module"))
        schedule_part = run.assembly.schedule

    assert made is not None
    module = ByHand()
    module.load_state_dict(assemble("recipe.yaml").module.state_dict())
    stock(4).fit(module, datamodule=trustformers_pl.data.resumable_datamodule(run.datamodule, seed=0))
    for p, expected in zip(module.parameters(), run.module.parameters(), strict=True):
        assert p.equal(expected)


def test_a_written_strategy_beside_that_of_a_section_is_refused(write: Any) -> None:
    for strategy, said in (("ddp_spawn", True), ("auto", False)):
        recipe = write(more="ddp: {}\n")
        if not said:
            assemble(recipe, [f"trainer.strategy={strategy}"])
            continue
        with pytest.raises(RefusedError) as caught:
            assemble(recipe, [f"trainer.strategy={strategy}"])
        assert str(caught.value) == (
            "--trainer.strategy: trainer.strategy is written, and ddp makes the strategy of this run; remove one of the "
            "two"
        )


@pytest.mark.parametrize("how", ["tryfirst", "trylast", "hookwrapper"])
def test_orders_of_pluggys_own_are_refused(write: Any, install: Any, how: str) -> None:
    source = SOURCE.format(traits="", hook="callbacks", answer="None")
    body = "(yield)" if how == "hookwrapper" else "None"
    source = source.replace("hookimpl(lambda self, plan: None)", f"hookimpl(lambda self, plan: {body}, {how}=True)")
    install("odd-pack", source, trustformers_pl={"odd": "Feature"})
    with pytest.raises(
        PluginError, match=r"^plugin 'odd': its hook `callbacks` is marked tryfirst, trylast or wrapper"
    ):
        assemble(write(more="odd: {}\n"))
