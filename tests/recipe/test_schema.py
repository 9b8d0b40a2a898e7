"""The JSON Schema against the reader, judged by the package `jsonschema`: where one refuses, so does the other."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from random import Random
from typing import Any

import pytest
from jsonschema import Draft202012Validator
from shown import examples, recipes

from trustformers_pl.errors import TrustformersError
from trustformers_pl.plan import make_plan
from trustformers_pl.recipe import Recipe
from trustformers_pl.recipe.marked_yaml import read_file
from trustformers_pl.recipe.places import plain
from trustformers_pl.recipe.schema import recipe_schema
from trustformers_pl.recipe.writing import as_yaml

Write = Callable[..., str]
Command = Callable[..., tuple[int, str, str]]
MUTANTS = 120  # of each recipe
VALUES: list[Any] = [3, -3, 1.5, "word", "a.b", True, None, [], [1], ["x"], {}, {"name": "adamw"}, {"x": 1}]
# What the reader refuses for reasons that a schema can express; `Config.__post_init__` has others.
FORM = ("expected", "no such", "is missing", "is a section", "is owned by", "is filled by", "this package reads")


@pytest.fixture(scope="module")
def validator() -> Draft202012Validator:
    schema = recipe_schema()
    Draft202012Validator.check_schema(schema)
    return Draft202012Validator(schema)


def read_by_schema(path: str) -> Any:
    return plain(read_file(Path(path)))


def refusal(sections: Any) -> str:
    """What the reader says of these sections, as a file; empty where it takes them."""
    Path("mutated.yaml").write_text(as_yaml(sections), encoding="utf-8")
    try:
        make_plan(Recipe.read("mutated.yaml", (), {}))
    except TrustformersError as error:
        return str(error)
    return ""


def mutants(sections: Any) -> Iterator[tuple[str, Any]]:
    """Each value replaced by each of `VALUES`; each key misspelt, left out, or joined by another."""
    for path in paths(sections):
        if "init_args" in path[:-1]:
            continue
        yield (
            f"{path} misspelt",
            changed(sections, path, lambda parent, key: parent.update({key + "x": parent.pop(key)})),
        )
        yield f"{path} left out", changed(sections, path, lambda parent, key: parent.pop(key))
        yield f"{path} joined", changed(sections, path, lambda parent, key: parent.update({"zzz": 1}))
        for value in VALUES:
            yield f"{path} = {value}", changed(sections, path, lambda parent, key, v=value: parent.update({key: v}))


def paths(sections: dict[str, Any], prefix: tuple[str, ...] = ()) -> Iterator[tuple[str, ...]]:
    for key, value in sections.items():
        yield (*prefix, key)
        if isinstance(value, dict):
            yield from paths(value, (*prefix, key))


def changed(sections: Any, path: tuple[str, ...], change: Callable[..., object]) -> Any:
    parent = result = copy.deepcopy(sections)
    for key in path[:-1]:
        parent = parent[key]
    change(parent, path[-1])
    return result


@pytest.mark.parametrize("name", recipes())
def test_every_recipe_that_is_shown_is_accepted(name: str, validator: Draft202012Validator) -> None:
    Path("shown.yaml").write_text(recipes()[name], encoding="utf-8")
    assert not list(validator.iter_errors(read_by_schema("shown.yaml")))


# What a recipe lacks that extends another, only the reader knows.
@pytest.mark.parametrize("name", [name for name, text in recipes().items() if "\nextends:" not in text])
def test_it_refuses_what_the_reader_refuses_and_nothing_else(name: str, validator: Draft202012Validator) -> None:
    Path("shown.yaml").write_text(recipes()[name], encoding="utf-8")
    sections = read_by_schema("shown.yaml")
    seen = {"accepted": 0, "refused": 0}
    every = list(mutants(sections))
    for what, mutant in Random(name).sample(every, min(MUTANTS, len(every))):
        said, valid = refusal(mutant), validator.is_valid(mutant)
        seen["accepted" if valid else "refused"] += 1
        assert valid or said, f"{what}: the schema refuses what the reader takes"
        if any(clause in line for line in lines_on_form(said, mutant) for clause in FORM):
            assert not valid, f"{what}: the reader says {said!r}"
    assert min(seen.values()) > 1


def lines_on_form(said: str, sections: Any) -> list[str]:
    """What of it a schema can know: not what `args` stands for, nor what it may have brought."""
    unknown = ("(args.", "(args)", "is missing") if "args" in sections else ()
    return [line for line in said.splitlines() if not any(clause in line for clause in unknown)]


def test_a_recipe_that_extends_another_needs_nothing_itself(write: Write, validator: Draft202012Validator) -> None:
    text = "optimizer: {lr: 0.1}\nsamples: {temperature: 0.5}\nmodel: {init_args: {width: 3}}\ncsv: null\n"
    write(text, name="alone.yaml")
    write(f"extends: base.yaml\n{text}", name="over.yaml")
    assert {error.message for error in validator.iter_errors(read_by_schema("alone.yaml"))} == {
        "'name' is a required property", "'prompts' is a required property", "'class_path' is a required property"
    }  # fmt: skip
    assert validator.is_valid(read_by_schema("over.yaml"))
    write("extends: base.yaml\noptimizer: {lt: 0.1}\n", name="typo.yaml")
    assert not validator.is_valid(read_by_schema("typo.yaml"))


def test_it_says_what_the_docstrings_say() -> None:
    properties = recipe_schema()["properties"]
    choices = properties["optimizer"]["oneOf"]
    (adamw,) = (choice["properties"] for choice in choices if choice.get("title") == "adamw")
    # Source: the Config of AdamWPlugin, as written there.
    assert adamw["lr"]["description"].startswith("Peak learning rate; the schedule multiplies it.")
    assert (adamw["lr"]["default"], adamw["betas"]["default"]) == (1e-3, [0.9, 0.999])
    assert properties["csv"]["description"]
    assert properties["trainer"]["properties"]["logger"]["not"] == {}
    every = [p for s in properties.values() for p in s.get("properties", {}).values() if "not" not in p]
    assert sum("description" in p for p in every) > 15


TYPES = """
import dataclasses, pathlib, typing
from trustformers_pl import Plugin
Mode = typing.Literal["fast", 2]

@dataclasses.dataclass(frozen=True, kw_only=True)
class Inner:
    depth: int = 1
    \"\"\"How deep.\"\"\"

class TypedPlugin(Plugin):
    \"\"\"Has a field of every kind.\"\"\"

    @dataclasses.dataclass(frozen=True, kw_only=True)
    class Config:
        inner: Inner = Inner()
        mode: Mode = "fast"
        where: pathlib.Path = pathlib.Path("here")
        pair: tuple[int, float] = (1, 2.0)
        many: tuple[int, ...] = ()
        table: dict[str, list[int]] = dataclasses.field(default_factory=dict)
        either: int | list[str] | None = None
        endless: float = float("inf")
        anything: typing.Any = None

class OtherPlugin(Plugin):
    \"\"\"A second optimizer.\"\"\"

    @dataclasses.dataclass(frozen=True, kw_only=True)
    class Config:
        lr: str
        speed: int = 1
"""
TYPED: dict[str, list[Any]] = {
    "inner": [{"depth": 2}, {}, {"depth": "x"}, {"deep": 1}, 3, None],
    "mode": ["fast", 2, True, "slow", None],
    "where": ["x", 3],
    "pair": [[1, 2], [1, 2.5], [1.5, 2], [1], [1, 2, 3], "ab"],
    "many": [[], [1, 2], [1, "x"], 1],
    "table": [{}, {"a": [1]}, {"a": [1.5]}, {"a": 1}, []],
    "either": [1, ["x"], None, 1.5, [1], "x", True],
    "endless": [1, 1.5, float("inf"), "inf", None],
    "anything": [1, None, {"a": [1]}, "x"],
}


def test_every_type_that_a_config_can_have(install: Callable[..., None]) -> None:
    points = {"typed": "TypedPlugin", "optimizer.other": "OtherPlugin"}
    install("typed-pack", TYPES, trustformers_pl=points)
    validator = Draft202012Validator(recipe_schema())
    Draft202012Validator.check_schema(validator.schema)
    for key, values in TYPED.items():
        verdicts = {(validator.is_valid(s), not refusal(s)) for value in values for s in [{"typed": {key: value}}]}
        assert verdicts <= {(True, True), (False, False)}, key
        assert (False, False) in verdicts or key == "anything"
    json.dumps(validator.schema, allow_nan=False)


def test_a_slot_takes_the_keys_of_what_it_names(install: Callable[..., None]) -> None:
    install("typed-pack", TYPES, trustformers_pl={"optimizer.other": "OtherPlugin"})
    validator = Draft202012Validator(recipe_schema())
    accepted = [{"name": "other", "lr": "x"}, {"name": "adamw", "lr": 1}]
    refused = [
        {"name": "other"},
        {"name": "other", "lr": 1},
        {"name": "other", "eps": 1},
        {"name": "adamw", "speed": 1},
    ]
    for section in accepted + refused:
        sections = {"optimizer": section}
        assert (validator.is_valid(sections), not refusal(sections)) == (section in accepted,) * 2
    for section in ({"lr": "x"}, {"lr": 1}, {"speed": 1}):  # another file may name either of the two
        assert validator.is_valid({"extends": "base.yaml", "optimizer": section})


def test_a_broken_package_spoils_its_own_section_alone(install: Callable[..., None]) -> None:
    install("broken-pack", "import nowhere", trustformers_pl={"broken": "Feature"})
    schema = recipe_schema()
    assert schema["properties"]["broken"]["description"].startswith("Broken: plugin 'broken' of broken-pack 1.0 cannot")
    assert schema["properties"]["csv"]["additionalProperties"] is False


SHORT = """
import dataclasses
from trustformers_pl import Plugin, hookimpl

class ShortPlugin(Plugin):
    \"\"\"Stands for an optimizer.\"\"\"

    @hookimpl
    def recipe(self, recipe):
        return {"optimizer": {"name": "adamw"}}
"""


def test_a_section_that_stands_for_others_may_bring_what_they_lack(install: Callable[..., None]) -> None:
    install("short-pack", SHORT, trustformers_pl={"short": "ShortPlugin"})
    validator = Draft202012Validator(recipe_schema())
    for sections, taken in (({"short": {}, "optimizer": {"lr": 1}}, True), ({"optimizer": {"lr": 1}}, False)):
        assert (validator.is_valid(sections), not refusal(sections)) == (taken, taken)


def test_the_command_prints_it_whole_or_for_one_recipe(write: Write, command: Command) -> None:
    code, out, err = command("schema")
    assert (code, err) == (0, "")
    assert json.loads(out) == recipe_schema()
    code, out, _ = command("schema", write(more="csv: {}\nmetrics: {}\n"), "--no-metrics")
    assert code == 0
    assert list(json.loads(out)["properties"]) == [
        "version",
        "extends",
        "seed",
        "model",
        "data",
        "trainer",
        "csv",
        "optimizer",
    ]
    assert command("schema", "nowhere.yaml")[2].startswith("error: nowhere.yaml: No such file")


def test_examples_are_found() -> None:
    assert len(examples()) >= 1
