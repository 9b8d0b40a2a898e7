"""Our own features through the kit that strangers' go through."""

from __future__ import annotations

from trustformers_pl.testing import Conformance


class TestCheckpoint(Conformance):
    plugin = "checkpoint"


class TestDDP(Conformance):
    plugin = "ddp"


class TestPretrained(Conformance):
    plugin = "pretrained"


class TestProfile(Conformance):
    plugin = "profile"
    measured = ("mfu",)
