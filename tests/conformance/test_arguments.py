"""Our own features through the kit that strangers' go through."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

from trustformers_pl.testing import Conformance

if TYPE_CHECKING:
    from trustformers_pl.testing.sections import Sections


class TestArgs(Conformance):
    plugin = "args"
    neutral: ClassVar[Sections] = {}
