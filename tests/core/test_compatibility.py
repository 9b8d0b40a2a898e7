"""Whether features can live in one run, from their declarations: the verdict, and `trustformers-pl plugins --with`."""

from __future__ import annotations

import subprocess
import sys
from typing import Any

import pytest

from trustformers_pl.compatibility import completion, verdict
from trustformers_pl.errors import RecipeError
from trustformers_pl.plan import make_plan
from trustformers_pl.recipe import Recipe
from trustformers_pl.refusals import refusals

PACK = """
    from trustformers_pl import Plugin, Refusal, Traits, hookimpl

    class Gives(Plugin):
        "Gives something."
        @classmethod
        def traits(cls, config):
            return Traits(provides=frozenset({"pack:thing"}))

    class Needs(Plugin):
        "Needs it."
        @classmethod
        def traits(cls, config):
            return Traits(requires=frozenset({"pack:thing"}))

    class Minds(Plugin):
        "Cannot live with it."
        @classmethod
        def traits(cls, config):
            thing = Refusal(trait="pack:thing", reason="it is in the way", mend="remove the section `gives`")
            return Traits(refuses=(thing,))

    class Lost(Plugin):
        "Needs what nothing gives."
        @classmethod
        def traits(cls, config):
            return Traits(requires=frozenset({"pack:nowhere"}))

    class Checks(Plugin):
        "Refuses by its check."
        @hookimpl
        def check(self, plan):
            names = [plugin.name for plugin in plan.plugins]
            return [f"checks: {names} are too many"] if len(names) > 1 else None
"""
OFFERS = {"gives": "Gives", "needs": "Needs", "minds": "Minds", "lost": "Lost", "checks": "Checks"}


@pytest.fixture
def pack(install: Any) -> None:
    install("a-pack", PACK, trustformers_pl=OFFERS)


def test_a_run_that_goes_back_needs_whoever_saves_it() -> None:
    plan = make_plan(Recipe.from_mapping({"finite": {"policy": "roll_back"}, "spikes": {"policy": "roll_back"}}))
    lines = refusals(plan, frozenset())
    assert len(lines) == 2
    assert all("needs checkpoints, which nothing in this run provides" in line for line in lines)
    plan = make_plan(Recipe.from_mapping({"finite": {"policy": "roll_back"}, "checkpoint": {}}))
    assert refusals(plan, frozenset()) == []
    assert refusals(make_plan(Recipe.from_mapping({"finite": {"policy": "skip"}})), frozenset()) == []


@pytest.mark.usefixtures("pack")
@pytest.mark.parametrize(
    ("features", "reasons"),
    [
        (["gives", "needs"], ()),
        (["csv", "ddp"], ()),
        (["gives", "minds"], ("minds refuses pack:thing (of gives), because it is in the way; remove the section `gives`",)),
        (["optimizer.adamw", "optimizer.adamw"], ("a recipe has one section `optimizer`: choose optimizer.adamw or optimizer.adamw",)),
        (["csv", "lost"], ("lost needs pack:nowhere, which nothing in this run provides; add a section that does, or remove this one",)),
        (["checks", "csv"], ("checks: ['checks', 'csv'] are too many",)),
    ],
)  # fmt: skip
def test_the_verdict(features: list[str], reasons: tuple[str, ...]) -> None:
    assert verdict(features).reasons == reasons


@pytest.mark.usefixtures("pack")
def test_what_two_features_need_is_added() -> None:
    assert completion(["needs", "csv"]) == ["gives"]
    assert verdict(["needs", "csv"]).completed_by == ("gives",)
    assert not verdict(["needs", "minds"]).together  # what the one needs, the other minds


def test_a_feature_that_is_not_there() -> None:
    with pytest.raises(RecipeError, match="cvs: no such feature is installed; did you mean 'csv'"):
        verdict(["cvs", "ddp"])


@pytest.mark.usefixtures("pack")
def test_the_command_answers(command: Any) -> None:
    assert command("plugins", "--with", "csv, ddp") == (0, "together: csv, ddp can live in one run\n", "")
    code, out, _ = command("plugins", "--with", "needs,minds")
    assert (code, out.splitlines()[0]) == (2, "with gives, which they need")
    assert "refused: minds refuses pack:thing" in out
    code, _, err = command("plugins", "--with", "csv")
    assert (code, err) == (2, "error: plugins --with: give two features or more, as in `--with ddp,csv`\n")


def test_it_answers_without_torch() -> None:
    code = "import sys; from trustformers_pl.compatibility import verdict; verdict(['csv', 'ddp']); print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "False\n"
