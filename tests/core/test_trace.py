"""`TFPL_TRACE=1`: each hook call with its answer."""

from __future__ import annotations

from typing import TYPE_CHECKING

from trustformers_pl.assembly import assemble_parts
from trustformers_pl.plan import make_plan
from trustformers_pl.recipe import Recipe

if TYPE_CHECKING:
    import pytest

RECIPE = {"model": {"class_path": "tiny.Composable"}, "optimizer": {"name": "adamw"}, "csv": {}}
FIRST = "import trustformers_pl as t\nclass Feature(t.Plugin):\n    'Penalises.'\n    @t.hookimpl\n"
GRADIENT = "    def gradient(self, plan, phase):\n        return [print] if phase == 'penalties' else None\n"


def calls(capsys: pytest.CaptureFixture[str]) -> list[str]:
    return [line for line in capsys.readouterr().err.splitlines() if line.startswith("trace: ")]


def test_each_call_is_one_line(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, install) -> None:  # type: ignore[no-untyped-def]
    install("penal-pack", FIRST + GRADIENT, trustformers_pl={"penal": "Feature"})
    monkeypatch.setenv("TFPL_TRACE", "1")
    assemble_parts(make_plan(Recipe.from_mapping({**RECIPE, "penal": {}})))
    lines = calls(capsys)
    assert any(
        line.startswith("trace: csv.loggers() -> [Part(target='trustformers_pl.tracking:CSVLogger'") for line in lines
    )
    assert "trace: penal.gradient(penalties) -> [<built-in function print>]" in lines
    assert "trace: penal.gradient(sync) -> None" in lines


def test_it_is_silent_unless_asked(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TFPL_TRACE", "0")
    assemble_parts(make_plan(Recipe.from_mapping(RECIPE)))
    assert calls(capsys) == []
