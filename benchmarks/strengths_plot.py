"""The curve of `docs/features/continual-results.md`: accuracy over the strength of a penalty, as an SVG."""

from __future__ import annotations

import math
from html import escape
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping

WIDTH, HEIGHT, LEFT, RIGHT, TOP, BOTTOM = 640, 300, 56, 150, 16, 46
LOW, HIGH = 0.45, 1.0
COLOURS = ("#3b5bdb", "#d9480f")
TEXT = 'font-family="sans-serif" font-size="13" fill="#808080"'  # on white and on black


def svg(curves: Mapping[str, Mapping[float, float]]) -> str:
    """A plot.

    Args:
        curves: Label -> strength -> accuracy; at most two.
    """
    strengths = sorted({strength for curve in curves.values() for strength in curve})

    def x(strength: float) -> float:
        share = math.log(strength / strengths[0]) / math.log(strengths[-1] / strengths[0])
        return LEFT + share * (WIDTH - LEFT - RIGHT)

    def y(accuracy: float) -> float:
        return TOP + (HIGH - accuracy) / (HIGH - LOW) * (HEIGHT - TOP - BOTTOM)

    parts = [_line(y(tenth / 10), f"{tenth / 10:.1f}") for tenth in range(5, 11)]
    parts += [_text(x(one), HEIGHT - BOTTOM + 20, f"{one:g}".replace("e+0", "e"), "middle") for one in strengths]
    parts.append(_text((LEFT + WIDTH - RIGHT) / 2, HEIGHT - 8, "strength", "middle"))
    for colour, (label, curve) in zip(COLOURS, curves.items(), strict=False):
        points = " ".join(f"{x(strength):.1f},{y(curve[strength]):.1f}" for strength in sorted(curve))
        parts.append(f'<polyline points="{points}" fill="none" stroke="{colour}" stroke-width="2.5"/>')
        last = max(curve)
        parts.append(_text(x(last) + 10, y(curve[last]) + 4, label, "start").replace("#808080", colour))
    box = f'viewBox="0 0 {WIDTH} {HEIGHT}" width="{WIDTH}" height="{HEIGHT}"'
    return f'<svg xmlns="http://www.w3.org/2000/svg" {box}>\n' + "\n".join(parts) + "\n</svg>\n"


def _line(y: float, label: str) -> str:
    line = f'<line x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{y:.1f}" y2="{y:.1f}" stroke="#808080" stroke-opacity="0.3"/>'
    return line + _text(LEFT - 10, y + 4, label, "end")


def _text(x: float, y: float, text: str, anchor: str) -> str:
    return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}" {TEXT}>{escape(text)}</text>'
