"""Public names that import their module on first use, so that `--help` never pays for torch."""

from __future__ import annotations

import importlib
import sys
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping


def exports(package: str, names: Mapping[str, str]) -> tuple[Callable[[str], Any], Callable[[], list[str]]]:
    """Make `__getattr__` and `__dir__` (PEP 562) for a package whose names live in submodules.

    Args:
        package: The package's `__name__`.
        names: Public name -> submodule (relative to the package) that defines it; empty where the name is one itself.

    Returns:
        The pair to bind to the package's `__getattr__` and `__dir__`.
    """

    def getattr_(name: str) -> Any:
        if name not in names:
            raise AttributeError(f"module {package!r} has no attribute {name!r}")
        submodule = names[name]
        value = (
            getattr(importlib.import_module(f"{package}.{submodule}"), name) if submodule else _submodule(package, name)
        )
        setattr(sys.modules[package], name, value)
        return value

    def dir_() -> list[str]:
        return sorted({*vars(sys.modules[package]), *names})

    return getattr_, dir_


def _submodule(package: str, name: str) -> Any:
    return importlib.import_module(f"{package}.{name}")
