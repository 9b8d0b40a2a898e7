"""A thousand broken recipes: one clear line each, or a plan that holds every value as it was written."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from mutations import Case, mutated
from shown import BASE, recipes

from trustformers_pl.plan import make_plan
from trustformers_pl.recipe import Recipe
from trustformers_pl.recipe.places import flatten, plain

Command = Callable[..., tuple[int, str, str]]
TRIALS = 1000
REFUSED = "refused, as it should be"
TEXTS = {**recipes(), "base": BASE, "over": "extends: base.yaml\nseed: 3\ncsv: {file: a.csv}\noptimizer: {lr: 0.1}\n"}
# A place: a file with or without a line, a flag, a variable. What is told of the whole recipe names its file.
ONE_LINE = re.compile(r"error: (\S*\.yaml(:\d+)?|\S+|--.*?|\$TFPL_\w*(:\d+)?)( \(args[.\w]*\))?: \S.*")


class Yaml12(getattr(yaml, "CSafeLoader", yaml.SafeLoader)):  # type: ignore[misc]
    """Reads as YAML 1.2's core schema has it (yaml.org/spec/1.2.2, 10.3.2), for what our mutations write."""


Yaml12.yaml_implicit_resolvers = {}
Yaml12.add_implicit_resolver("tag:yaml.org,2002:null", re.compile(r"^(?:null|Null|NULL|~|)$"), ["n", "N", "~", ""])
Yaml12.add_implicit_resolver(
    "tag:yaml.org,2002:bool", re.compile(r"^(?:true|True|TRUE|false|False|FALSE)$"), list("tTfF")
)
Yaml12.add_implicit_resolver(
    "core:int", re.compile(r"^(?:[-+]?[0-9][0-9_]*|0o[0-7]+|0x[0-9a-fA-F]+)$"), list("-+0123456789")
)
Yaml12.add_implicit_resolver(
    "core:float", re.compile(r"^[-+]?(?:\.[0-9]+|[0-9][0-9_]*(?:\.[0-9_]*)?)(?:[eE][-+]?[0-9]+)?$|^[-+]?\.(?:inf|Inf|INF)$|^\.(?:nan|NaN|NAN)$"),
    list("-+.0123456789"),
)  # fmt: skip


def _int(loader: Any, node: yaml.ScalarNode) -> int:
    text = node.value.replace("_", "")
    return int(text, 8 if text.startswith("0o") else 16 if text.startswith("0x") else 10)


def _float(loader: Any, node: yaml.ScalarNode) -> float:
    return float(re.sub(r"\.(?=[a-z])", "", node.value.lower().replace("_", "")))  # Python writes inf, YAML .inf


Yaml12.add_constructor("core:int", _int)
Yaml12.add_constructor("core:float", _float)


def as_written(case: Case) -> dict[str, Any]:
    """The recipe by another reader, with the base, the variables and the overrides laid over it in a plain way."""
    found = yaml.load(case.text, Yaml12) or {}
    below = found.pop("extends", None) or []
    for parent in reversed([below] if isinstance(below, str) else below):
        found = laid(yaml.load(Path(parent).read_text(encoding="utf-8"), Yaml12), found)
    for name, value in sorted(case.variables.items()):
        keys = name.removeprefix("TFPL_").lower().split("__")
        if found.get(keys[0]) is not None:
            found = laid(found, put(keys, yaml.load(value, Yaml12)))
    for text in case.overrides:
        key, equals, value = text.removeprefix("--").partition("=")
        taken_out = key.removeprefix("no-").replace("-", "_")
        found = laid(found, put(key.split("."), yaml.load(value, Yaml12)) if equals else {taken_out: None})
    return {key: value for key, value in found.items() if value is not None and key != "version"}


def put(keys: list[str], value: Any) -> dict[str, Any]:
    for key in reversed(keys):
        value = {key: value}
    return value


def laid(below: dict[Any, Any], top: dict[Any, Any]) -> dict[Any, Any]:
    """`top` over `below`; another class does not inherit arguments."""
    result = dict(below)
    if {"class_path"} <= below.keys() & top.keys() and below["class_path"] != top["class_path"]:
        result.pop("init_args", None)
    for key, value in top.items():
        both = isinstance(value, dict) and isinstance(result.get(key), dict)
        result[key] = laid(result[key], value) if both else value
    return result


def differences(written: Any, resolved: Any, where: str = "") -> list[str]:
    """Where a value that was written is not in the plan; and in `model`, `data` and `trainer`, what was not written."""
    if isinstance(written, dict) and isinstance(resolved, dict):
        named = {str(key): value for key, value in written.items()}
        free = where.startswith((".model", ".data", ".trainer"))  # no plugin fills in defaults there
        found = [f"{where}.{key} is lost" for key in named.keys() - resolved.keys()]
        found += [f"{where}.{key} was not written" for key in resolved.keys() - named.keys() if free]
        return found + [
            d
            for key in named.keys() & resolved.keys()
            for d in differences(named[key], resolved[key], f"{where}.{key}")
        ]
    numbers = type(written) in (int, float) and type(resolved) in (int, float)
    same = repr(written) == repr(resolved) or (numbers and written == resolved)
    return [] if same else [f"{where}: {written!r} became {resolved!r}"]


def is_stood_for(difference: str, keys: list[str]) -> bool:
    """Whether it only says that a short form brought what was not written."""
    key, says, _ = difference.partition(" was not written")
    return bool(says) and any(stood_for.startswith(f"{key}.") for stood_for in keys)


@pytest.fixture
def run(command: Command, monkeypatch: pytest.MonkeyPatch) -> Callable[[Case], str]:
    """Run one case through `explain`; what went wrong with it, or nothing."""
    Path("base.yaml").write_text(BASE)

    def run_(case: Case) -> str:
        Path("recipe.yaml").write_bytes(case.text.encode("utf-8", "surrogatepass"))
        with monkeypatch.context() as patch:
            for name, value in case.variables.items():
                patch.setenv(name, value)
            code, out, err = command("explain", "recipe.yaml", *case.overrides)
            if code == 2:
                lines = err.split("\n")[:-1]
                bad = [line for line in lines if not ONE_LINE.fullmatch(line) or not line.isprintable()]
                return f"not a clear line: {bad}" if bad or not lines or out else REFUSED
            if code or err:
                return f"exit code {code}, {err}"
            resolved = make_plan(Recipe.read("recipe.yaml", case.overrides)).resolved
        stood_for = [f".{key}." for key, leaf in flatten(resolved).items() if leaf.place.via]
        found = differences(as_written(case), plain(resolved))
        return "; ".join(d for d in found if not is_stood_for(d, stood_for))

    return run_


@pytest.mark.parametrize("share", range(4))
def test_a_thousand_broken_recipes(run: Callable[[Case], str], share: int) -> None:
    names = sorted(TEXTS)
    failed, seen = [], Counter[str]()
    for seed in range(share, TRIALS, 4):
        name = names[seed % len(names)]
        case = mutated(TEXTS[name], seed)
        try:
            problem = run(case)
        except Exception as error:
            problem = f"raised {type(error).__name__}: {error}"
        if problem not in ("", REFUSED):
            failed.append(f"{name}, seed {seed}, {case.overrides} {case.variables}: {problem[:300]}")
        seen["refused" if problem == REFUSED else "accepted"] += 1
    assert not failed, "\n".join(failed[:20])
    assert min(seen["refused"], seen["accepted"]) > TRIALS / 4 / 10  # neither side of the promise goes untested
