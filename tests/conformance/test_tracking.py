"""Our own features through the kit that strangers' go through."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

from trustformers_pl.testing import Conformance
from trustformers_pl.tracking.machine import OF_THE_GPU, OF_THE_HOST

if TYPE_CHECKING:
    from trustformers_pl.testing.sections import Sections


class TestCSV(Conformance):
    plugin = "csv"


class TestMetrics(Conformance):
    plugin = "metrics"
    measured = ("tokens_per_second",)


class TestProgress(Conformance):
    plugin = "progress"


class TestSamples(Conformance):
    plugin = "samples"


class TestTiming(Conformance):
    plugin = "timing"
    neutral: ClassVar[Sections] = {}


class TestTensorBoard(Conformance):
    plugin = "tensorboard"
    neutral: ClassVar[Sections] = {}


class TestScores(Conformance):
    plugin = "scores"
    neutral: ClassVar[Sections] = {"metrics": {"accuracy": {}}}


class TestSystem(Conformance):
    plugin = "system"
    neutral: ClassVar[Sections] = {}
    measured = (*OF_THE_HOST, *OF_THE_GPU)
