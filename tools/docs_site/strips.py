"""The phases as strips of boxes, in order, as HTML that wraps on narrow screens."""

from __future__ import annotations

from typing import TYPE_CHECKING

from trustformers_pl.gradients import OURS_ALONE, GradientPhase
from trustformers_pl.phases import DataPhase, ModulePhase

if TYPE_CHECKING:
    from enum import StrEnum


def module() -> str:
    """The phases of the module."""
    return _strip(ModulePhase)


def data() -> str:
    """The phases of the data."""
    return _strip(DataPhase)


def gradient() -> str:
    """The phases of the gradients; those that take no rules are dimmed."""
    return _strip(GradientPhase)


def _strip(kind: type[StrEnum]) -> str:
    boxes = [f"<span{_style(phase)}>{phase.value.replace('_', ' ')}</span>" for phase in kind]
    return f'<p class="strip">{"".join(boxes)}</p>'


def _style(phase: StrEnum) -> str:
    return ' class="closed"' if phase in OURS_ALONE else ""
