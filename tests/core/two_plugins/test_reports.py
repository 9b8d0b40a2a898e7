"""Hooks that only say something: what both say is there, in plugin order."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from trustformers_pl.errors import RefusedError
from trustformers_pl.factory import assemble
from trustformers_pl.report import ReportCurve, ReportTable


def test_reasons_of_both_checks_are_told_in_plugin_order(refused: Any) -> None:
    assert refused("check", zzz='["zzz says no"]', aaa='["aaa says no"]') == (RefusedError, "zzz says no\naaa says no")


def test_both_are_probed(two: Any) -> None:
    run = two("probe", zzz='f"zzz saw {run.trainer.global_step} steps"', aaa="None")
    assert list(run.probe().items())[-2:] == [("zzz", "zzz saw 1 steps"), ("aaa", None)]


def test_both_report_also_under_one_heading(two: Any) -> None:
    more = "from trustformers_pl.report import ReportSection\n"
    two("report", zzz='[ReportSection("Seen", "by zzz")]', aaa='[ReportSection("Seen", "by aaa")]', more=more)
    text = Path("runs/recipe/report.md").read_text()
    assert text[text.index("## Seen") :] == "## Seen\n\nby zzz\n\n## Seen\n\nby aaa\n"


def test_a_section_may_have_a_table_and_curves(two: Any) -> None:
    more = "from trustformers_pl.report import ReportCurve, ReportSection, ReportTable\n"
    section = 'ReportSection("Seen", "Text.", ReportTable(["a|b", "c"], [("x", 0.5), (None, 2)]), [ReportCurve("k", [1, 2], [3.0, 0.25])])'
    two("report", zzz=f"[{section}]", aaa="[]", more=more)
    text = Path("runs/recipe/report.md").read_text()
    expected = "## Seen\n\nText.\n\n| a\\|b | c |\n|---|---|\n| x | 0.5 |\n|  | 2 |\n\n- k: 0.25\n"
    assert text[text.index("## Seen") :] == expected
    page = Path("runs/recipe/report.html").read_text()
    assert "<p>Text.</p>" in page
    assert '<td>x</td><td class="number">0.5</td>' in page
    assert '"title":"Seen","x":"step","metric":false' in page


def test_what_is_no_table_or_curve_is_refused() -> None:
    with pytest.raises(ValueError, match="a row of 1 cells in a table of 2 columns"):
        ReportTable(["a", "b"], [["x"]])
    with pytest.raises(ValueError, match="curve 'k' has 2 x and 1 y"):
        ReportCurve("k", [1, 2], [1])


def test_after_an_error_a_report_that_fails_hides_nothing(install: Any, write: Any, caplog: Any) -> None:
    install("sad-pack", """
        from lightning import Callback
        from trustformers_pl import Plugin, hookimpl

        class Stops(Callback):
            def on_train_batch_end(self, *args):
                raise ArithmeticError("in the run")

        class Feature(Plugin):
            "Fails, and cannot say why."
            @hookimpl
            def callbacks(self, plan):
                return [Stops()]
            @hookimpl
            def report(self, run):
                raise LookupError("in the report")
    """, trustformers_pl={"sad": "Feature"})  # fmt: skip
    run = assemble(write(more="sad: {}\n"))
    with pytest.raises(ArithmeticError, match="in the run"):
        run.fit()
    assert "report.html: not written: LookupError: in the report" in caplog.text
    assert "ArithmeticError: in the run" in Path("runs/recipe/report.html").read_text()
