"""Rule D: a program beside features of other packages, and features on a module of several models."""

from __future__ import annotations

from typing import Any

import pytest
import tiny
import torch
from tiny_parts import StockPolicy, network
from two_parts import Rule, stock

from trustformers_pl.errors import RefusedError
from trustformers_pl.factory import assemble
from trustformers_pl.frozen_parts import with_parts
from trustformers_pl.precision_order import OrderedPrecision
from trustformers_pl.program_run import ProgramRun

PROGRAM = """
    from trustformers_pl import Plugin, Traits, hookimpl
    from trustformers_pl.program import Child
    def children(plan):
        yield [Child("only")]
    class Feature(Plugin):
        "One run."
        traits = classmethod(lambda cls, config: Traits(claims=frozenset({"program"})))
        program = hookimpl(lambda self, plan: children)
        callbacks = hookimpl(lambda self, plan: 1 / 0)
"""


def test_two_programs_are_refused_before_a_child_is_made(refused: Any) -> None:
    assert refused("program", zzz="iter(())", aaa="iter(())", claims="program") == (
        RefusedError,
        "recipe.yaml:11: zzz and aaa both claim program; remove one of the two sections",
    )


def test_features_beside_a_program_are_its_childrens(write: Any, install: Any, install_two: Any) -> None:
    """Their hooks are not called for the program, and what they refuse is told of the child, before it starts."""
    install("many-pack", PROGRAM, trustformers_pl={"many": "Feature"})
    install_two("check", zzz='["zzz says no"]', aaa='["aaa says no"]')
    run = assemble(write(more="many: {}\naaa: {}\nzzz: {}\n"))
    assert isinstance(run, ProgramRun)
    with pytest.raises(RefusedError) as caught:
        run.fit()
    assert str(caught.value).splitlines() == ["child only: zzz says no", "child only: aaa says no"]


def frozen_bits(module: Any) -> list[torch.Tensor]:
    return list(module.reference.state_dict().values())


def assert_only_the_policy_moved(module: Any) -> None:
    """Expected: the networks as they were made."""
    assert all(torch.equal(a, b) for a, b in zip(frozen_bits(module), network(7).state_dict().values(), strict=True))
    assert all(p.grad is None for p in module.reference.parameters())
    assert not torch.equal(module.policy[0].weight, network(1)[0].weight)


def test_rules_of_two_on_a_module_of_two_models_leave_the_frozen_one(two: Any) -> None:
    rule = '[part("two_parts:Rule", 2.0, 1.0)]'
    model = ("model.class_path=tiny_parts.Policy",)
    assert_only_the_policy_moved(two("gradient", phase="penalties", zzz=rule, aaa=rule, overrides=model).module)


def test_the_same_in_a_stock_trainer() -> None:
    module = with_parts(StockPolicy())
    rules = {"penalties": [Rule(2.0, 1.0), Rule(2.0, 1.0)]}
    stock(plugins=[OrderedPrecision(rules=rules)]).fit(module, datamodule=tiny.Data())
    assert_only_the_policy_moved(module)


PARTS = """
from trustformers_pl.model_parts import ModelPart
class Adds:
    def parts(self):
        inherited = super().parts() if hasattr(super(), "parts") else {}
        return {**inherited, __name__: ModelPart(self.layer)}
"""


def test_one_submodule_as_a_part_of_two_features_is_refused(two: Any) -> None:
    said = r"^parts: aaa_pack and zzz_pack share a parameter \(aaa_pack\.weight is zzz_pack\.weight\); copy it, or make"
    with pytest.raises(RefusedError, match=said):
        two("module_mixins", zzz='["zzz_pack:Adds"]', aaa='["aaa_pack:Adds"]', more=PARTS)
