"""The hook `recipe` of two packages: they agree, or are refused by name; what is written wins over both."""

from __future__ import annotations

from typing import Any

import pytest

from trustformers_pl.errors import RecipeError
from trustformers_pl.plan import Plan, make_plan
from trustformers_pl.recipe import Recipe

ADAMW = '{{"optimizer": {{"name": "adamw", "lr": {lr}}}}}'
BARE = "model: {class_path: tiny.Composable}\n"


def planned(path: str, *overrides: str) -> Plan:
    return make_plan(Recipe.read(path, overrides, {}))


def test_two_that_stand_for_different_values_are_refused(write: Any, install_two: Any) -> None:
    install_two("recipe", zzz=ADAMW.format(lr=0.5), aaa=ADAMW.format(lr=0.1))
    path = write(BARE, "aaa: {}\nzzz: {}\n")
    with pytest.raises(RecipeError) as caught:
        planned(path)
    assert str(caught.value) == (
        "recipe.yaml:3: aaa stands for optimizer.lr = 0.1, and zzz for 0.5; write optimizer.lr in the recipe, or remove "
        "one of the two sections"
    )
    # The mends that the line names, and no other values of theirs are lost.
    by_name = {plugin.name: plugin.config for plugin in planned(path, "optimizer.lr=0.2").plugins}
    assert by_name["optimizer.adamw"].lr == 0.2
    by_name = {plugin.name: plugin.config for plugin in planned(path, "no-aaa").plugins}
    assert by_name["optimizer.adamw"].lr == 0.5


def test_two_that_agree_and_two_that_complete_each_other(write: Any, install_two: Any) -> None:
    install_two(
        "recipe", zzz='{"optimizer": {"name": "adamw", "lr": 0.5}}', aaa='{"optimizer": {"lr": 0.5, "eps": 1e-6}}'
    )
    (plugin,) = [p for p in planned(write(BARE, "aaa: {}\nzzz: {}\n")).plugins if p.name == "optimizer.adamw"]
    assert (plugin.config.lr, plugin.config.eps) == (0.5, 1e-6)


def test_two_choices_for_one_slot_are_refused(write: Any, install_two: Any) -> None:
    install_two("recipe", zzz='{"optimizer": {"name": "adamw"}}', aaa='{"optimizer": {"name": "sgd"}}')
    with pytest.raises(
        RecipeError, match=r"^recipe\.yaml:3: aaa stands for optimizer\.name = 'sgd', and zzz for 'adam"
    ):
        planned(write(BARE, "aaa: {}\nzzz: {}\n"))


CONFIG = """
    @dataclass(frozen=True, kw_only=True)
    class Config:
        level: float = 0.1
"""


def test_a_value_that_comes_after_the_section_was_expanded_is_refused(write: Any, install: Any) -> None:
    """`aaa` stands for an optimizer of its level; `zzz`, expanded later, gives `aaa` another level."""
    source = "from dataclasses import dataclass\nfrom trustformers_pl import Plugin, hookimpl\n"
    aaa = f"{source}class Feature(Plugin):\n    'f'{CONFIG}"
    aaa += "    @hookimpl\n    def recipe(self, recipe):\n"
    aaa += "        return {'optimizer': {'name': 'adamw', 'lr': self.config.level}}\n"
    zzz = f"{source}class Feature(Plugin):\n    'f'\n    recipe = hookimpl(lambda self, recipe: {{'aaa': {{'level': 0.7}}}})\n"
    install("aaa-pack", aaa, trustformers_pl={"aaa": "Feature"})
    install("zzz-pack", zzz, trustformers_pl={"zzz": "Feature"})
    with pytest.raises(RecipeError) as caught:
        planned(write(BARE, "aaa: {}\nzzz: {}\n"))
    assert str(caught.value) == (
        "recipe.yaml:3: zzz stands for aaa.level = 0.7, and aaa was expanded without it; write aaa.level in the recipe"
    )
    for text, lr in (("aaa: {level: 0.3}\nzzz: {}\n", 0.3), ("zzz: {}\n", 0.7)):
        (plugin,) = [p for p in planned(write(BARE, text)).plugins if p.name == "optimizer.adamw"]
        assert plugin.config.lr == lr


def test_a_section_that_was_taken_out_stays_out(write: Any, install_two: Any) -> None:
    install_two("recipe", zzz='{"csv": {}, "metrics": {}}', aaa='{"csv": {}}')
    path = write(BARE, "aaa: {}\nzzz: {}\n")
    assert [p.name for p in planned(path).plugins] == ["csv", "metrics", "zzz", "aaa"]
    assert [p.name for p in planned(path, "no-csv").plugins] == ["metrics", "zzz", "aaa"]
    assert [p.name for p in planned(write(BARE, "aaa: {}\nzzz: {}\nmetrics: null\n")).plugins] == ["csv", "zzz", "aaa"]
    mapping = {"model": {"class_path": "tiny.Composable"}, "zzz": {}, "csv": None}
    assert [p.name for p in make_plan(Recipe.from_mapping(mapping)).plugins] == ["metrics", "zzz"]
