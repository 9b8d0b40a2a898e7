"""Continual learning through the kit."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

from trustformers_pl.testing import Conformance

if TYPE_CHECKING:
    from trustformers_pl.testing.sections import Sections


class TestTasks(Conformance):
    plugin = "tasks"
    neutral: ClassVar[Sections] = {"scenario": "domain", "number": 1, "epochs": 100}


class TestEWC(Conformance):
    plugin = "ewc"
    neutral: ClassVar[Sections] = {"strength": 0.0}


class TestSI(Conformance):
    plugin = "si"
    neutral: ClassVar[Sections] = {"strength": 0.0}


class TestMAS(Conformance):
    plugin = "mas"
    neutral: ClassVar[Sections] = {"strength": 0.0}
