"""Our own features through the kit that strangers' go through."""

from __future__ import annotations

from trustformers_pl.testing import Conformance


class TestCSV(Conformance):
    plugin = "csv"


class TestMetrics(Conformance):
    plugin = "metrics"
    measured = ("tokens_per_second",)


class TestProgress(Conformance):
    plugin = "progress"


class TestSamples(Conformance):
    plugin = "samples"
