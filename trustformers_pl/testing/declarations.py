"""Checks of what a plugin says of itself: its names, its import, its keys, its hooks and its traits."""

from __future__ import annotations

import dataclasses
import json
import os
import subprocess
import sys
import typing
from functools import cache
from typing import TYPE_CHECKING, Any

from jsonschema import Draft202012Validator

from trustformers_pl.plan import make_plan
from trustformers_pl.plugins import Plugin, hook_caller
from trustformers_pl.recipe import Recipe
from trustformers_pl.recipe.docstrings import field_docstrings
from trustformers_pl.recipe.places import flatten
from trustformers_pl.recipe.schema import recipe_schema
from trustformers_pl.recipe.values import is_supported
from trustformers_pl.recipe.writing import as_yaml
from trustformers_pl.refusals import refusals
from trustformers_pl.traits import unknown_words

if TYPE_CHECKING:
    from pathlib import Path

    from trustformers_pl.plan import Plan
    from trustformers_pl.testing.subject import Subject


def check_names(subject: Subject) -> None:
    """Check 1: the entry point gives a documented plugin, and its section switches it on, and it alone."""
    plugin = subject.plugin
    assert issubclass(plugin, Plugin)
    assert (plugin.__doc__ or "").strip(), f"{plugin.__name__} has no docstring; its first line is what `plugins` shows"
    with_it, without = _plan(subject.on()), _plan(subject.plain())
    names = {p.name for p in with_it.plugins}
    assert subject.name in names, f"the section {dict(subject.section)} does not switch {subject.name} on"
    section = subject.name.partition(".")[0]
    was_there = {p.name for p in without.plugins if p.name.partition(".")[0] == section}
    assert names - {subject.name} == {p.name for p in without.plugins} - was_there


def check_import(subject: Subject) -> None:
    """Check 1: its import needs and does nothing."""
    told = _told(subject)
    assert not told["needs"], (
        f"importing {subject.name} imports {', '.join(told['needs'])}: import what is not your own package inside hooks"
    )
    assert not told["load"], f"importing {subject.name} {'; '.join(told['load'])}"


def check_config(subject: Subject, folder: Path) -> None:
    """Check 2: keys are typed and documented, defaults valid, and values survive a round trip."""
    cls = subject.plugin.Config
    _check_fields(cls, subject.name)
    plan = _plan(subject.on())
    file = folder / "recipe.yaml"
    file.write_text(as_yaml(subject.on()), encoding="utf-8")
    read_again = _plan(Recipe.read(file, environment={}))
    values, again = (_values(p) for p in (plan, read_again))
    assert values == again, f"written as YAML and read again, the recipe of {subject.name} differs"
    assert _config(plan, subject) == _config(read_again, subject)
    _check_schema(subject)
    keys = {field.name for field in dataclasses.fields(cls)}
    section = subject.name.partition(".")[0]
    shown = {key.split(".")[1] for key in values if key.startswith(f"{section}.")}
    assert keys <= shown, f"`explain` does not show {', '.join(sorted(keys - shown))} of {subject.name}"


def _check_schema(subject: Subject) -> None:
    """The schema that editors use takes the section, and refuses a key that it does not have."""
    section = subject.name.partition(".")[0]
    schema = Draft202012Validator(recipe_schema(only=[section]))
    wrong = [error.message for error in schema.iter_errors(subject.section)]
    assert not wrong, f"the schema refuses the section of {subject.name}: {wrong[0]}"
    typo = {section: {**subject.section[section], "no_such_key_of_any_plugin": 1}}
    assert not schema.is_valid(typo), f"the schema takes any key in the section {section}"


def _check_fields(cls: type, name: str) -> None:
    params = cls.__dataclass_params__  # type: ignore[attr-defined]
    assert params.frozen, f"{name}: its Config can be changed; write `@dataclass(frozen=True, kw_only=True)`"
    hints, documented = typing.get_type_hints(cls), field_docstrings(cls)
    for field in dataclasses.fields(cls):
        key = f"{name}.{field.name}"
        assert field.kw_only, f"{key} can be given by position; write `@dataclass(frozen=True, kw_only=True)`"
        assert documented.get(field.name), f"{key} has no docstring: a string under it says what it does and its unit"
        hint = hints[field.name]
        if dataclasses.is_dataclass(hint) and isinstance(hint, type):
            _check_fields(hint, key)
            continue
        assert is_supported(hint), f"{key} has the type {hint}, which recipes cannot hold"
    required = [field for field in dataclasses.fields(cls) if _is_required(field)]
    if not required:
        cls()  # the defaults pass its own checks


def _is_required(field: dataclasses.Field[Any]) -> bool:
    return field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING


def check_hooks(subject: Subject) -> None:
    """Check 3: hooks and words are the contract's, and asking changes nothing."""
    plan = _plan(subject.on())
    own = next(plugin for plugin in plan.plugins if plugin.name == subject.name)
    hook_caller([own])  # raises where a hook, or an argument of one, does not exist
    words = unknown_words(subject.traits)
    assert not words, f"{subject.name}: {'; '.join(words)}"
    refusals(plan, frozenset())  # raises where traits and hooks do not agree
    told = _told(subject)
    if told["needs"]:
        return  # it cannot even be imported there, which is another check's to say
    assert told["error"] is None, f"asking {subject.name} for its traits fails: {told['error']}"
    assert not told["declare"], f"asking {subject.name} for its traits and checks {'; '.join(told['declare'])}"
    assert told["same"], f"{subject.name} declares other traits, or refuses for other reasons, when it is asked again"


def _told(subject: Subject) -> dict[str, Any]:
    return json.loads(_asked(subject.name, json.dumps(subject.on()), os.pathsep.join(filter(None, sys.path))))  # type: ignore[no-any-return]


@cache
def _asked(name: str, sections: str, path: str) -> str:
    """What a bare interpreter tells about a plugin; once for several checks."""
    done = subprocess.run(  # noqa: S603
        [sys.executable, "-B", "-m", "trustformers_pl.testing.declaring", name, sections],
        env={**os.environ, "PYTHONPATH": path},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def _plan(sections: Any) -> Plan:
    return make_plan(sections if isinstance(sections, Recipe) else Recipe.from_mapping(sections))


def _values(plan: Plan) -> dict[str, Any]:
    return {key: leaf.value for key, leaf in flatten(plan.resolved).items()}


def _config(plan: Plan, subject: Subject) -> Any:
    return next(plugin.config for plugin in plan.plugins if plugin.name == subject.name)
