"""No feature of ours is exempt from the kit."""

from __future__ import annotations

from importlib import import_module
from pathlib import Path

from trustformers_pl.plugins import discover
from trustformers_pl.testing import Conformance


def test_every_feature_of_ours_is_run_through_the_kit() -> None:
    classes = [
        value
        for path in Path(__file__).parent.glob("test_*.py")
        for value in vars(import_module(f"conformance.{path.stem}")).values()
        if isinstance(value, type) and issubclass(value, Conformance) and value is not Conformance
    ]
    ours = {name for name, offer in discover().items() if offer.package == "trustformers-pl"}
    assert sorted({cls.plugin for cls in classes}) == sorted(ours)
