"""Sections that arguments stand for and that this version may not have yet."""

from __future__ import annotations

from typing import Any

import pytest

from trustformers_pl.plugins import discover

# Their keys, as agreed; each only declares itself, and does nothing.
KEYS = {
    "accumulate": "batches: int = 1",
    "clip": "norm: float | None = None; value: float | None = None",
    "early_stopping": (
        "monitor: str = 'val_loss'; mode: Literal['min', 'max'] = 'min'; patience: int = 3; min_delta: float = 0.0"
    ),
    "precision": (
        "dtype: Literal['fp32', 'bf16', 'fp16'] = 'fp32'; opt_level: Literal['O0', 'O1', 'O2', 'O3'] | None = None; "
        "loss_scale: Literal['dynamic'] | float = 'dynamic'; initial_scale: float = 65536.0; growth_interval: int = 2000; "
        "growth_factor: float = 2.0; backoff_factor: float = 0.5; min_scale: float = 1.0"
    ),
}
SOURCE = """
from dataclasses import dataclass
from typing import Literal
from trustformers_pl import Plugin
"""


@pytest.fixture
def everyday(install: Any) -> None:
    """Declare those of the everyday sections that no installed package offers."""
    source, points, offers = SOURCE, {}, discover()
    for section, fields in KEYS.items():
        if section in offers:
            continue
        name = section.title().replace("_", "")
        lines = "".join(f"        {field.strip()}\n" for field in fields.split(";"))
        source += f"class {name}(Plugin):\n    'A stand-in.'\n    @dataclass(frozen=True, kw_only=True)\n    class Config:\n{lines}"
        points[section] = name
    if points:
        install("everyday-sections", source, trustformers_pl=points)
