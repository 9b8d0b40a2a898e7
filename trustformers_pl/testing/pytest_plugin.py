"""What pytest loads of this package by itself, at its own start: nothing heavy."""

from __future__ import annotations

import os
import sys
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from collections.abc import Iterator

pytest.register_assert_rewrite("trustformers_pl.testing.conformance", "trustformers_pl.testing.declarations")


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Give the check beside other features one row for each that is installed."""
    conformance = sys.modules.get("trustformers_pl.testing.conformance")
    if conformance is None or metafunc.cls is None or not issubclass(metafunc.cls, conformance.Conformance):
        return
    if "other" in metafunc.fixturenames:
        metafunc.parametrize("other", list(conformance.others(metafunc.cls.plugin)))


@pytest.fixture
def _as_before() -> Iterator[None]:
    """A run on a mesh leaves its process group and ranks in the environment, which a later one would believe."""
    environment = dict(os.environ)
    yield
    distributed = sys.modules.get("torch.distributed")
    if distributed is not None and distributed.is_available() and distributed.is_initialized():
        distributed.destroy_process_group()
    os.environ.clear()
    os.environ.update(environment)
