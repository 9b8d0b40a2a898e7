"""The vocabulary of traits: each word is used on both sides, and no other word passes."""

from __future__ import annotations

from typing import Any

import pytest
import tiny

from trustformers_pl.errors import PluginError, RefusedError
from trustformers_pl.factory import assemble, module_traits
from trustformers_pl.phases import EXCLUSIVE
from trustformers_pl.plugins import Plugin, discover
from trustformers_pl.traits import NEEDS_OF_HOOKS, REFUSALS_OF_HOOKS, SLOTS_OF_HOOKS, Slot, Trait

MODEL = {"model": {"class_path": "tiny.Composable"}, "optimizer": {"name": "adamw"}}
SOURCE = """
    from trustformers_pl import Plugin, Refusal, Traits, hookimpl, part
    class Feature(Plugin):
        "A stranger's feature."
        @classmethod
        def traits(cls, config):
            return Traits({traits})
        {hook}
"""


def builtin(name: str) -> Plugin:
    cls = discover()[name].load()
    return cls(cls.Config(**cls.example), name)


def our_own() -> list[str]:
    """Names of the plugins of this distribution; others may be installed beside it."""
    return [name for name, offer in discover().items() if offer.package == "trustformers-pl"]


def test_each_trait_is_provided_and_asked_for_somewhere() -> None:
    traits = [plugin.traits(plugin.config) for plugin in map(builtin, our_own())]
    provided = set().union(*(t.provides for t in traits)) | module_traits(tiny.Weighable())
    asked = set().union(*(t.requires for t in traits), *({r.trait for r in t.refuses} for t in traits))
    going_back = discover()["finite"].load()  # its example has another policy
    of_going_back = going_back.traits(going_back.Config(policy="roll_back"))
    asked, provided = asked | of_going_back.requires, provided | of_going_back.provides
    sharding = discover()["zero"].load()  # whose example keeps weights whole
    provided |= sharding.traits(sharding.Config(stage=3)).provides
    asked |= {refusal.trait for refusal in sharding.traits(sharding.Config(stage=3)).refuses}
    asked |= set(NEEDS_OF_HOOKS.values()) | {refusal.trait for refusal in REFUSALS_OF_HOOKS.values()}
    of_the_engine = {Trait.MODULE_STRUCTURE, Trait.OWN_END}  # which asks for them
    # Meta-learning is yet to come; tests/parallel/ has a stranger's.
    assert provided == set(Trait) - {Trait.SECOND_ORDER}
    assert asked == set(Trait) - of_the_engine


def test_each_slot_is_claimed_by_a_feature_or_guards_a_hook() -> None:
    claimed = set().union(*(p.traits(p.config).claims for p in map(builtin, our_own())))
    claimed = {slot for slot in claimed if ":" not in slot}
    assert claimed | set(SLOTS_OF_HOOKS.values()) | set(EXCLUSIVE.values()) == set(Slot)


@pytest.mark.parametrize(
    ("traits", "hook", "said"),
    [
        (
            "claims=frozenset({'optimiser'})",
            "",
            r"'optimiser' is no slot; did you mean 'optimizer'\?, or call it `your-pac",
        ),
        ("requires=frozenset({'mesch'})", "", r"'mesch' is no trait; did you mean 'mesh'\?"),
        (
            "refuses=(Refusal(trait='x', reason='', mend=''),)",
            "",
            "'x' is no trait; known: checkpoints, decomposed-loss",
        ),
        ("", "step = hookimpl(lambda self, plan: None)", "implements the hook `step` without claiming the slot `step`"),
    ],
)
def test_words_and_hooks_that_do_not_agree(install: Any, traits: str, hook: str, said: str) -> None:
    install("odd-pack", SOURCE.format(traits=traits, hook=hook), trustformers_pl={"odd": "Feature"})
    with pytest.raises(PluginError, match=f"plugin 'odd'.*{said}"):
        assemble({**MODEL, "odd": {}})


def test_a_packages_own_words_need_no_permission(install: Any) -> None:
    traits = "claims=frozenset({'odd-pack:place'}), provides=frozenset({'odd-pack:thing'})"
    install("odd-pack", SOURCE.format(traits=traits, hook=""), trustformers_pl={"odd": "Feature"})
    run = assemble({**MODEL, "odd": {}})
    assert [plugin.name for plugin in run.assembly.plan.plugins] == ["odd", "optimizer.adamw"]


def test_a_strategy_of_ones_own_refuses_a_mesh(install: Any) -> None:
    hook = "strategy = hookimpl(lambda self, plan: 'auto')"
    traits = "claims=frozenset({'strategy'})"
    install("own-pack", SOURCE.format(traits=traits, hook=hook), trustformers_pl={"own": "Feature"})
    with pytest.raises(RefusedError) as caught:
        assemble({**MODEL, "own": {}, "ddp": {}})
    assert str(caught.value) == (
        "Python: own refuses mesh (of ddp), because a run has one strategy, and a mesh is one; remove one of the two sections"
    )
