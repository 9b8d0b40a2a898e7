"""What pytest loads of this package by itself, at its own start: nothing heavy."""

from __future__ import annotations

import sys

import pytest

PAIR = "test_beside_another_feature["

pytest.register_assert_rewrite("trustformers_pl.testing.conformance", "trustformers_pl.testing.declarations")


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Give the check beside other features one row for each that is installed."""
    conformance = sys.modules.get("trustformers_pl.testing.conformance")
    if conformance is None or metafunc.cls is None or not issubclass(metafunc.cls, conformance.Conformance):
        return
    if "other" in metafunc.fixturenames:
        metafunc.parametrize("other", list(conformance.others(metafunc.cls.plugin)))


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Say how long the pairs took."""
    found = (test for test in terminalreporter.stats.get("passed", []) if PAIR in test.nodeid)
    seconds = sorted((test.duration, test.nodeid) for test in found if test.when == "call")
    if seconds:
        slowest, name = seconds[-1]
        median = seconds[len(seconds) // 2][0]
        total = sum(duration for duration, _ in seconds)
        terminalreporter.section("pairs of features")
        terminalreporter.line(
            f"{len(seconds)} pairs in {total:.1f} s: median {median:.2f} s, slowest {slowest:.2f} s "
            f"({name.rpartition('::')[0].rpartition('::')[2]} beside {name.partition(PAIR)[2].rstrip(']')})"
        )
