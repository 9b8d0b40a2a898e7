"""ZeRO through the kit, at each of its stages."""

from __future__ import annotations

from typing import Any, ClassVar

from trustformers_pl.testing import Conformance


class TestZeroStage1(Conformance):
    plugin = "zero"
    section: ClassVar[dict[str, Any]] = {"stage": 1}


class TestZeroStage2(Conformance):
    plugin = "zero"
    section: ClassVar[dict[str, Any]] = {"stage": 2}


class TestZeroStage3(Conformance):
    plugin = "zero"
    section: ClassVar[dict[str, Any]] = {"stage": 3}
