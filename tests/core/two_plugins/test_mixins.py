"""Mixins of two packages in one class: both are reached, or the one that hides the other is refused."""

from __future__ import annotations

from typing import Any

import pytest
import tiny
import torch
from two_parts import Typed, as_started, assert_changed, data, stock

from trustformers_pl.errors import RefusedError
from trustformers_pl.factory import assemble

COOPERATIVE = """
class Triples:
    def on_before_optimizer_step(self, optimizer):
        super().on_before_optimizer_step(optimizer)
        for p in self.parameters():
            p.grad.mul_(3.0)
class AddsOne:
    def on_before_optimizer_step(self, optimizer):
        super().on_before_optimizer_step(optimizer)
        for p in self.parameters():
            p.grad.add_(1.0)
"""


def test_mixins_of_earlier_plugins_stand_first_and_both_are_called(two: Any) -> None:
    """`class Module(Triples, AddsOne, ...)`: each calls `super()` first, so it is 3 * (g + 1)."""
    run = two("module_mixins", zzz='["zzz_pack:Triples"]', aaa='["aaa_pack:AddsOne"]', more=COOPERATIVE)
    assert [cls.__name__ for cls in type(run.module).__mro__[3:5]] == ["Triples", "AddsOne"]
    assert_changed(run, 3.0, 3.0)


def test_the_same_class_typed_by_hand_in_a_stock_trainer(write: Any) -> None:
    write()
    names: dict[str, Any] = {}
    exec(COOPERATIVE, names)

    class Module(names["Triples"], names["AddsOne"], Typed):  # type: ignore[misc]
        pass

    module = as_started(Module())
    stock().fit(module, data())
    assert_changed(module, 3.0, 3.0)


@pytest.mark.parametrize(
    "body",
    [
        "strength = {number}",
        "def on_before_optimizer_step(self, optimizer): self.seen = {number}",
        "def teacher(self): return {number}",
        "teacher = property(lambda self: {number})",
    ],
)
def test_a_name_that_the_first_hides_from_the_second_is_refused(refused: Any, body: str) -> None:
    more = f"class Mixin:\n    {body.format(number='__name__')}\n"
    name = "strength" if "strength" in body else "teacher" if "teacher" in body else "on_before_optimizer_step"
    assert refused("module_mixins", zzz='["zzz_pack:Mixin"]', aaa='["aaa_pack:Mixin"]', more=more) == (
        RefusedError,
        f"recipe.yaml:10: zzz and aaa both define `{name}` of the module, and that of zzz (Mixin) hides that of aaa "
        "(Mixin); call super() in it, rename one, or remove one of the two sections",
    )


def test_constants_that_agree_and_a_base_in_common_hide_nothing(write: Any, install_two: Any, install: Any) -> None:
    install("base-pack", "class Shared:\n    def shared(self):\n        return 1\n")
    more = "import base_pack\nclass Mixin(base_pack.Shared):\n    strict_loading = False\n"
    install_two("module_mixins", zzz='["zzz_pack:Mixin"]', aaa='["aaa_pack:Mixin"]', more=more)
    module = assemble(write(more="aaa: {}\nzzz: {}\n")).module
    assert type(module).__name__ == "Composable+Mixin+Mixin+ConfiguredOptimizers"
    assert module.shared() == 1  # type: ignore[operator]


def test_one_mixin_from_two_features_is_one(write: Any, install_two: Any, install: Any) -> None:
    install("base-pack", "class Shared:\n    pass\n")
    install_two("module_mixins", zzz='["base_pack:Shared"]', aaa='["base_pack:Shared"]')
    module = assemble(write(more="aaa: {}\nzzz: {}\n")).module
    assert type(module).__name__ == "Composable+Shared+ConfiguredOptimizers"


def test_classes_that_python_cannot_order_are_refused(refused: Any, install: Any) -> None:
    install("base-pack", "class Lower:\n    pass\nclass Upper(Lower):\n    pass\n")
    kind, said = refused("module_mixins", zzz='["base_pack:Lower"]', aaa='["base_pack:Upper"]')
    assert kind is RefusedError
    assert said.startswith("recipe.yaml:10: the mixins of zzz and aaa cannot be bases of one class: Cannot create a co")
    assert "\n" not in said


def test_optimizers_of_a_mixin_beside_an_optimizer_section_are_refused(refused: Any) -> None:
    more = "class Own:\n    def configure_optimizers(self):\n        return None\n"
    assert refused("module_mixins", zzz='["zzz_pack:Own"]', aaa="None", more=more) == (
        RefusedError,
        "recipe.yaml:11: optimizer and zzz both define `configure_optimizers` of the module, and that of optimizer "
        "(ConfiguredOptimizers) hides that of zzz (Own); call super() in it, rename one, or remove one of the two "
        "sections",
    )


STEPS = """
class Own:
    def training_step(self, batch, batch_idx):
        {body}
def term(module, outputs, batch):
    return outputs.sum(), len(outputs)
"""


def test_a_training_step_that_hides_the_loss_terms_of_another_is_refused(write: Any, install: Any) -> None:
    """`own` brings the step and `term` the loss term; with `super()` both take part."""
    source = "from trustformers_pl import LossTerm, Plugin, hookimpl\n" + STEPS
    own = "class Feature(Plugin):\n    'f'\n    module_mixins = hookimpl(lambda self, plan: ['{name}_pack:Own'])\n"
    term = "class Feature(Plugin):\n    'f'\n    loss_terms = hookimpl(lambda self, plan: [LossTerm('mean', term)])\n"
    install("own-pack", source.format(body="return None") + own.format(name="own"), trustformers_pl={"own": "Feature"})
    passes = source.format(body="return super().training_step(batch, batch_idx)") + own.format(name="passes")
    install("passes-pack", passes, trustformers_pl={"passes": "Feature"})
    install("term-pack", source.format(body="pass") + term, trustformers_pl={"term": "Feature"})
    with pytest.raises(RefusedError) as caught:
        assemble(write(more="own: {}\nterm: {}\n"))
    assert str(caught.value) == (
        "recipe.yaml:11: term needs decomposed-loss, which Composable does not provide; give the module "
        "`forward(batch)` and `loss(outputs, batch) -> (sum, count)`, and no training_step, in it or a mixin, that does "
        "not call super(), or remove the section"
    )
    module = assemble(write(more="passes: {}\nterm: {}\n")).module
    batch = [torch.ones(2, 4), torch.zeros(2, 1)]
    assert torch.equal(module.training_step(batch, 0)["mean"], module(batch).mean().detach())


def test_a_step_of_the_users_own_that_hides_loss_terms_is_refused(two: Any, monkeypatch: Any) -> None:
    class Hides(tiny.Composable):
        def training_step(self, batch: Any, batch_idx: int) -> Any:
            return self(batch).sum()

    monkeypatch.setattr(tiny, "Hides", Hides, raising=False)
    term = "[LossTerm(__name__, lambda module, outputs, batch: (outputs.sum(), 1))]"
    with pytest.raises(RefusedError, match="zzz needs decomposed-loss, which Hides does not provide"):
        two("loss_terms", zzz=term, aaa=term, overrides=("model.class_path=tiny.Hides",))
