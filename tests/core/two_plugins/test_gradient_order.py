"""Rule C: rules of two packages run in one fixed order, within a phase in plugin order."""

from __future__ import annotations

from typing import Any

import pytest
from two_parts import Change, Rule, Typed, as_started, assert_changed, data, stock

from trustformers_pl.errors import PluginError
from trustformers_pl.precision_order import OrderedPrecision

TRIPLE, ADD_ONE = '[part("two_parts:Rule", 3.0, 0.0)]', '[part("two_parts:Rule", 1.0, 1.0)]'


def in_stock(rules: dict[str, Any], **arguments: Any) -> Any:
    module = as_started(Typed())
    stock(plugins=[OrderedPrecision(rules=rules)], **arguments).fit(module, data())
    return module


@pytest.mark.parametrize("phase", ["sync", "penalties", "finite", "clip"])
def test_in_one_phase_they_go_by_after(two: Any, phase: str) -> None:
    """`aaa` comes after `zzz`: 3 g + 1, not 3 (g + 1)."""
    assert_changed(two("gradient", phase=phase, zzz=TRIPLE, aaa=ADD_ONE), 3.0, 1.0)
    assert_changed(in_stock({phase: [Rule(3.0, 0.0), Rule(1.0, 1.0)]}), 3.0, 1.0)


def test_the_phase_is_stronger_than_after(two: Any) -> None:
    """`zzz` is called first and adds in a later phase than `aaa`, which triples: 3 g + 1 all the same."""
    zzz = f'{ADD_ONE} if phase == "penalties" else None'
    aaa = f'{TRIPLE} if phase == "sync" else None'
    assert_changed(two("gradient", zzz=zzz, aaa=aaa), 3.0, 1.0)
    assert_changed(in_stock({"penalties": [Rule(1.0, 1.0)], "sync": [Rule(3.0, 0.0)]}), 3.0, 1.0)


def test_a_callback_of_another_comes_after_the_penalties(write: Any) -> None:
    write()
    module = in_stock({"penalties": [Rule(1.0, 1.0)], "sync": [Rule(3.0, 0.0)]}, callbacks=[Change(2.0, 0.0)])
    assert_changed(module, 6.0, 2.0)


def test_a_step_that_one_rule_skips_is_averaged_by_none(two: Any, write: Any) -> None:
    """One plugin decides in `finite`, the other one follows the weights in `ema`."""
    more = "seen = []\ndef skip():\n    return lambda step: setattr(step, 'skip', True)\n"
    more += "def follow():\n    return lambda step: seen.append(1)\n"
    zzz = '[part("zzz_pack:skip")] if phase == "finite" else None'
    aaa = '[part("aaa_pack:follow")] if phase == "ema" else None'
    two("gradient", zzz=zzz, aaa=aaa, more=more)
    import aaa_pack  # type: ignore[import-not-found]

    assert aaa_pack.seen == []
    skip: Any = [lambda step: setattr(step, "skip", True)]
    in_stock({"finite": skip, "ema": [aaa_pack.follow()]})
    assert aaa_pack.seen == []
    in_stock({"ema": [aaa_pack.follow()]})
    assert aaa_pack.seen == [1]


def test_a_rule_in_a_phase_that_takes_none_is_refused_by_name(refused: Any) -> None:
    assert refused("gradient", phase="divide", zzz=TRIPLE, aaa=ADD_ONE) == (
        PluginError,
        "plugin 'zzz' has a rule for the gradient phase 'divide', which takes none; use one of sync, penalties, finite, "
        "clip, ema",
    )
    with pytest.raises(ValueError, match="the gradient phase 'divide' takes no rules"):
        OrderedPrecision(rules={"divide": [Rule(3.0, 0.0)]})
