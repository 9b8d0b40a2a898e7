"""What `explain --build` adds: the composed class, and how large the module is. No weight takes memory for it."""

from __future__ import annotations

import inspect
from pathlib import Path
from typing import TYPE_CHECKING

from trustformers_pl.cli.opening import local_classes
from trustformers_pl.cli.tables import print_table

if TYPE_CHECKING:
    from lightning import LightningModule

    from trustformers_pl.assembly import Assembly


def print_built(assembly: Assembly) -> None:
    """Build the module on the meta device; print its class's method order and its size."""
    import torch

    from trustformers_pl.factory import build_module

    local_classes()
    with torch.device("meta"):
        module = build_module(assembly)
    rows = [[cls.__name__, _place(cls), ", ".join(_overrides(cls))] for cls in _classes(module)]
    print_table(["CLASS, IN METHOD ORDER", "FROM", "OVERRIDES OF LIGHTNINGMODULE"], rows)
    parameters = list(module.parameters())
    count = sum(p.numel() for p in parameters)
    size = sum(p.numel() * p.element_size() for p in parameters)
    print(f"\n{count:,} parameters, {size / 2**20:,.1f} MiB, in {len(parameters)} tensors")


def _classes(module: LightningModule) -> list[type]:
    """The composed class and its bases, up to Lightning's."""
    from lightning import LightningModule

    order = type(module).__mro__
    return [cls for cls in order[: order.index(LightningModule)] if not cls.__module__.startswith("lightning.")]


def _overrides(cls: type) -> list[str]:
    from lightning import LightningModule

    return sorted(
        n for n, v in vars(cls).items() if callable(v) and hasattr(LightningModule, n) and not n.startswith("__")
    )


def _place(cls: type) -> str:
    try:
        file = Path(inspect.getsourcefile(cls) or "").resolve()
        line = inspect.getsourcelines(cls)[1]
    except (OSError, TypeError):
        return "composed by the engine"
    shown = file.relative_to(Path.cwd()) if file.is_relative_to(Path.cwd()) else Path(*file.parts[-3:])
    return f"{shown}:{line}"
