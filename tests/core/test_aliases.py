"""Other names of sections as methods of `Trainer`: entry points of a group of their own."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import tiny

import trustformers_pl as tfpl
from trustformers_pl.errors import PluginError
from trustformers_pl.plugins import aliases, discover

PACK = """
    from dataclasses import dataclass
    from trustformers_pl import Plugin

    class Growth(Plugin):
        "Does nothing."
        @dataclass(frozen=True, kw_only=True)
        class Config:
            level: int = 1

    class Other(Plugin):
        "Does nothing."
"""
Install = Callable[..., None]


def test_ours_are_of_our_sections() -> None:
    assert aliases().items() >= {("data_parallel", "ddp")}
    assert aliases().keys().isdisjoint(discover())


def test_an_alias_is_the_section_itself(install: Install) -> None:
    install("pack", PACK, trustformers_pl={"growth": "Growth"}, trustformers_pl__aliases={"bigger": "Growth"})
    trainer = tfpl.Trainer(tiny.Composable(), tiny.samples(8), args={"optimizer": {"name": "adamw"}})
    assert {"with_bigger", "with_growth", "with_data_parallel"} <= set(dir(trainer))
    plugins = trainer.with_bigger(level=3).run.assembly.plan.plugins  # type: ignore[attr-defined]
    assert {plugin.name: plugin.config.level for plugin in plugins if plugin.name == "growth"} == {"growth": 3}
    with pytest.raises(AttributeError, match="no section 'biger' is installed; did you mean 'with_bigger'"):
        trainer.with_biger()


@pytest.mark.parametrize(
    ("points", "named", "complaint"),
    [
        ({"growth": "Growth"}, {"bigger": "Other"}, "alias 'bigger' of pack: pack:Other is no section's plugin; give it the"),
        ({"growth": "Growth"}, {"bigger": "Gone"}, "alias 'bigger' of pack: pack:Gone is no section's plugin"),
        ({"optimizer.growth": "Growth"}, {"bigger": "Growth"}, "alias 'bigger' of pack: pack:Growth is no section's plugin"),
        ({"growth": "Growth"}, {"clip": "Growth"}, "alias 'clip' of pack is for 'growth', and 'clip' has this name already"),
        ({"growth": "Growth"}, {"data_parallel": "Growth"}, "alias 'data_parallel' of .* and '.*' has this name already"),
    ],
)  # fmt: skip
def test_an_alias_of_nothing_or_of_two_is_told(
    install: Install, points: dict[str, str], named: dict[str, str], complaint: str
) -> None:
    install("pack", PACK, trustformers_pl=points, trustformers_pl__aliases=named)
    trainer = tfpl.Trainer(tiny.Composable())
    with pytest.raises(PluginError, match=complaint):
        trainer.with_bigger()
