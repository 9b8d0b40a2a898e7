"""Parts: one declaration, built or printed."""

from __future__ import annotations

import pickle
from fractions import Fraction
from pathlib import Path

import pytest

from trustformers_pl.parts import Name, Part, Script, build, part


def test_building_calls_from_the_inside_out() -> None:
    inner = part("fractions:Fraction", 1, 2)
    outer = part("builtins:dict", x=[inner, (inner, Name("y"))], z={"deep": inner})
    half = Fraction(1, 2)
    assert outer.build(y=3) == {"x": [half, (half, 3)], "z": {"deep": half}}
    assert build("plain", {}) == "plain"


def test_printing_is_python_that_builds_the_same() -> None:
    call = part(
        "builtins:dict", a=part("fractions:Fraction", 1, 3), b=[1.5, None, "x"], c=(2,), d=float("-inf"), e=Path("p")
    )
    script = Script()
    text = script.expression(call)
    names: dict[str, object] = {}
    exec("\n".join(script.import_lines()), names)
    assert eval(text, names) == {**call.build(), "e": "p"}
    assert script.import_lines() == ["from builtins import dict", "from fractions import Fraction"]


def test_names_are_replaced_where_asked() -> None:
    assert Script().expression(part("a:f", Name("module")), module="self") == "f(self)"


def test_two_modules_with_one_name_do_not_clash() -> None:
    script = Script()
    text = script.expression([Part("first:Logger"), Part("second:Logger"), Part("first:Logger")])
    assert text == "[Logger(), Logger_2(), Logger()]"
    assert script.import_lines() == ["from first import Logger", "from second import Logger as Logger_2"]


def test_parts_pickle() -> None:
    call = part("fractions:Fraction", 1, 2)
    assert pickle.loads(pickle.dumps(call)) == call


def test_a_missing_name_is_an_error() -> None:
    with pytest.raises(KeyError, match="optimizer"):
        part("builtins:str", Name("optimizer")).build()
