"""A thousand ways to get a recipe wrong, each from a seed: its text, overrides and environment."""

from __future__ import annotations

import random
import re
from dataclasses import dataclass, field
from itertools import pairwise
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

WORDS = [
    "seed",
    "csv",
    "optimizer",
    "lr",
    "trainer",
    "max_steps",
    "x",
    "init_args",
    "name",
    "modle",
    "cvs",
    "Ünïcode",
    "",
]
# As they stand in a file; what they mean is YAML 1.2's to say.
VALUES = [
    "3", "-1", "0", "1.5", "2e-3", "true", "yes", "null", "~", "''", "word", "'3'", "[]", "[1, 2]", "{}", "{a: 1}", "[[1]]",
    "1" * 400, "1" * 5000, "0x" + "f" * 5000, "1e400", "-.inf", ".nan", "012", "0o17", "1:30", "2026-01-01", "1_000", "é☃",
    '"\\0"', '"a\\nb"', '"\\u202e"', "!!int x", "!!timestamp x", "!!binary aaaa", "!!set {a}", "!!null x", "!x y", "!!str 3",
    "&a 3", "*a", "&a [*a]", "&a {b: *a}", "<<", "- 1", "a: b", "@", "`", "%", "[1", "{a", '"', "'", "|", ">", "? ", "#", "\t1",
    "[" * 3000, "{a: " * 500 + "1" + "}" * 500, "x" * 3000, "a b.c", "a..b", "os.path\n", "../x.yaml",
]  # fmt: skip
BOMB = "a: &a [1,1,1,1,1,1,1,1,1]\n" + "".join(
    f"{b}: &{b} [{','.join(['*' + a] * 9)}]\n" for a, b in pairwise("abcdefghi")
)
NOISE = [
    "\x00",
    "\ufeff",
    "\x85",
    "\u2028",
    "\ud800",
    "\t",
    "\r",
    "\n",
    ":",
    ": ",
    "-",
    "- ",
    "#",
    "{",
    "}",
    "[",
    "&",
    "*",
    "!",
    "é",
    "💥",
]
KEY = re.compile(r"[A-Za-z_]+(?=:)")


@dataclass
class Case:
    """One invocation: `recipe.yaml` with this text, these overrides, these variables."""

    text: str
    overrides: list[str] = field(default_factory=list)
    variables: dict[str, str] = field(default_factory=dict)


def mutated(text: str, seed: int) -> Case:
    """The recipe with one or two things changed."""
    draw = random.Random(seed)
    case = Case(text)
    for _ in range(draw.choice([1, 1, 1, 2])):
        draw.choice(MUTATIONS)(case, draw)
    return case


def _key(case: Case, draw: random.Random) -> re.Match[str] | None:
    found = list(KEY.finditer(case.text))
    return draw.choice(found) if found else None


def misspell(case: Case, draw: random.Random) -> None:
    match = _key(case, draw)
    if match:
        letters = list(match[0])
        at = draw.randrange(len(letters))
        letters[at : at + draw.choice([0, 1])] = draw.choice(["", "e", "E", "_", "x"])
        _replace(case, match, "".join(letters))


def rename(case: Case, draw: random.Random) -> None:
    match = _key(case, draw)
    if match:
        _replace(case, match, draw.choice(WORDS))


def change_value(case: Case, draw: random.Random) -> None:
    lines = case.text.split("\n")
    at = draw.choice([number for number, line in enumerate(lines) if ":" in line] or [0])
    head, colon, _ = lines[at].partition(":")
    lines[at] = f"{head}{colon} {draw.choice(VALUES)}"
    case.text = "\n".join(lines)


def change_inner_value(case: Case, draw: random.Random) -> None:
    found = list(re.finditer(r"(?<=: )[^,{}\[\]\n#]+", case.text))
    if found:
        _replace(case, draw.choice(found), draw.choice(VALUES))


def drop_line(case: Case, draw: random.Random) -> None:
    lines = case.text.split("\n")
    lines.pop(draw.randrange(len(lines)))
    case.text = "\n".join(lines)


def double_line(case: Case, draw: random.Random) -> None:
    lines = case.text.split("\n")
    at = draw.randrange(len(lines))
    lines.insert(draw.randrange(len(lines) + 1), lines[at])
    case.text = "\n".join(lines)


def move_line(case: Case, draw: random.Random) -> None:
    lines = case.text.split("\n")
    line = lines.pop(draw.randrange(len(lines)))
    lines.insert(draw.randrange(len(lines) + 1), line)
    case.text = "\n".join(lines)


def indent(case: Case, draw: random.Random) -> None:
    lines = case.text.split("\n")
    at = draw.randrange(len(lines))
    lines[at] = draw.choice(["  " + lines[at], "    " + lines[at], lines[at].lstrip(), "\t" + lines[at]])
    case.text = "\n".join(lines)


def nest(case: Case, draw: random.Random) -> None:
    case.text = f"{draw.choice(WORDS)}:\n" + "\n".join(f"  {line}" for line in case.text.split("\n"))


def noise(case: Case, draw: random.Random) -> None:
    at = draw.randrange(len(case.text) + 1)
    case.text = case.text[:at] + draw.choice(NOISE) + case.text[at + draw.choice([0, 0, 1, 5]) :]


def append(case: Case, draw: random.Random) -> None:
    more = [
        f"{draw.choice(WORDS)}: {draw.choice(VALUES)}\n",
        BOMB,
        "---\nseed: 1\n",
        "...\n",
        "extends: recipe.yaml\n",
        "? {a: b}\n",
    ]
    case.text += draw.choice(
        [*more, 'extends: "\\0"\n', "extends: [base.yaml]\n", "extends: .\n", "csv: null\n", "cvs: null\n"]
    )


def override(case: Case, draw: random.Random) -> None:
    key, value = ".".join(draw.choices(WORDS, k=draw.choice([1, 2, 2, 3]))), draw.choice(VALUES)
    forms = [
        f"--{key}={value}",
        f"--no-{key}",
        f"--{key}",
        f"--trainer.max_steps={value}",
        f"--optimizer.lr={value}",
        "--no-",
    ]
    case.overrides.append(
        draw.choice([*forms, "--=1", "--.=1", "--csv={}", "--no-csv", "--no-cvs", f"--seed={draw.choice(NOISE)}"])
    )


def variable(case: Case, draw: random.Random) -> None:
    key = draw.choice(
        [
            "SEED",
            "CSV",
            "CVS",
            "OPTIMIZER__LR",
            "TRAINER__MAX_STEPS",
            "CSV__FILE",
            "SEED__X",
            "CSV__",
            "__X",
            "",
            "NAME",
        ]
    )
    value = draw.choice([value for value in VALUES if "\0" not in value])
    case.variables[f"TFPL_{key}"] = value


def _replace(case: Case, match: re.Match[str], text: str) -> None:
    case.text = case.text[: match.start()] + text + case.text[match.end() :]


MUTATIONS: list[Callable[[Case, random.Random], None]] = [
    misspell, misspell, rename, change_value, change_value, change_inner_value, change_inner_value, drop_line, double_line,
    move_line, indent, nest, noise, noise, append, override, override, variable, variable,
]  # fmt: skip
