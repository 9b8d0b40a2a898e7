"""What a run does when something goes wrong, through the kit that strangers' features go through."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

from trustformers_pl.testing import Conformance
from trustformers_pl.testing.sections import SAVED

if TYPE_CHECKING:
    from trustformers_pl.testing.sections import Sections


class TestFiniteByGoingBack(Conformance):
    plugin = "finite"
    section: ClassVar[Sections] = {"policy": "roll_back"}
    beside: ClassVar[Sections] = SAVED
    neutral: ClassVar[Sections] = {"policy": "roll_back"}


class TestOutOfMemory(Conformance):
    plugin = "out_of_memory"
    neutral: ClassVar[Sections] = {"max_splits": 1}


class TestQuarantine(Conformance):
    plugin = "quarantine"
    neutral: ClassVar[Sections] = {"max_samples": 1}


class TestSpikes(Conformance):
    plugin = "spikes"
    neutral: ClassVar[Sections] = {"factor": 1e9}


class TestSpikesThatTheRunGoesBackFrom(Conformance):
    plugin = "spikes"
    section: ClassVar[Sections] = {
        "factor": 0.5,
        "window": 4,
        "policy": "roll_back",
        "max_consecutive": 3,
        "max_rollbacks": 100,
    }
    beside: ClassVar[Sections] = SAVED
