"""Our own features through the kit that strangers' go through."""

from __future__ import annotations

from trustformers_pl.testing import Conformance


class TestAdamW(Conformance):
    plugin = "optimizer.adamw"


class TestCosine(Conformance):
    plugin = "schedule.cosine"
