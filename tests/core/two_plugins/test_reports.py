"""Hooks that only say something: what both say is there, in plugin order."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from trustformers_pl.errors import RefusedError


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
