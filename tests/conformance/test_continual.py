"""Continual learning through the kit."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

from trustformers_pl.testing import Conformance

if TYPE_CHECKING:
    from trustformers_pl.testing.sections import Sections


class TestReplay(Conformance):
    plugin = "replay"
    neutral: ClassVar[Sections] = {"capacity": 8, "batch": 0}


class TestReplayOnDisk(Conformance):
    plugin = "replay"
    section: ClassVar[Sections] = {"bytes": 4096, "batch": 3, "where": "disk"}


class TestDER(Conformance):
    plugin = "der"


class TestLwF(Conformance):
    plugin = "lwf"
    neutral: ClassVar[Sections] = {"from_start": True, "alpha": 0.0}


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


class TestProgressive(Conformance):
    plugin = "progressive"


class TestProgressiveBlocks(Conformance):
    plugin = "progressive"
    section: ClassVar[Sections] = {"column": "blocks", "lateral": "adapter", "freeze_rest": True}
    beside: ClassVar[Sections] = {
        "model": {
            "class_path": "trustformers_pl.models.GPT",
            "init_args": {"d_model": 8, "n_layers": 2, "n_heads": 2, "context_length": 8, "dropout": 0.1},
        }
    }
