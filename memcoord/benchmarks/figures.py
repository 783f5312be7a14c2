"""A figure of lines and dots, as SVG written by hand: nothing needs a plotting library.

Owns: axes, linear or logarithmic, lines with names. Pure.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

WIDTH, HEIGHT = 760, 460
LEFT, RIGHT, TOP, BOTTOM = 70, 190, 20, 50
LINE_HEIGHT = 14
COLOURS = ("#36c", "#c33", "#2a2", "#d80", "#849", "#0aa", "#777", "#a52", "#e6a", "#550")


@dataclass(frozen=True)
class Axis:
    """What is along it, and whether it is logarithmic; ``names`` stand for 0, 1, 2 ..."""

    label: str
    is_log: bool = False
    names: tuple[str, ...] = ()


@dataclass(frozen=True)
class Line:
    """Points joined by a line, or one dot; lines of one ``colour`` number share it."""

    name: str
    points: Sequence[tuple[float, float]]
    colour: int
    is_dashed: bool = False


class _Scale:
    def __init__(self, axis: Axis, values: Sequence[float], start: float, end: float) -> None:
        self._axis, self._start, self._end = axis, start, end
        inner = [self._inner(value) for value in values] or [0.0]
        self._low, high = min(inner), max(inner)
        if axis.is_log:
            self._low, high = math.floor(self._low), math.ceil(high)
        elif not axis.names:
            self._low = min(self._low, 0.0)
        self._span = (high - self._low) or 1.0

    def _inner(self, value: float) -> float:
        return math.log10(max(value, 1e-9)) if self._axis.is_log else value

    def __call__(self, value: float) -> float:
        share = (self._inner(value) - self._low) / self._span
        return self._start + share * (self._end - self._start)

    def ticks(self) -> list[tuple[float, str]]:
        """Places and their texts."""
        if self._axis.names:
            return [(self(index), name) for index, name in enumerate(self._axis.names)]
        if self._axis.is_log:
            powers = range(int(self._low), int(self._low + self._span) + 1)
            return [(self(10.0**power), f"{10.0**power:,.10g}") for power in powers]
        values = [self._low + self._span * part / 5 for part in range(6)]
        return [(self(value), f"{value:.3g}") for value in values]


def svg(lines: Sequence[Line], x_axis: Axis, y_axis: Axis) -> str:
    """The figure; the names stand to the right, in the order of ``lines``."""
    points = [point for line in lines for point in line.points]
    right, bottom = WIDTH - RIGHT, HEIGHT - BOTTOM
    scale_x = _Scale(x_axis, [x for x, _ in points], LEFT, right)
    scale_y = _Scale(y_axis, [y for _, y in points], bottom, TOP)
    text = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" '
        'font-family="sans-serif" font-size="12">',
        f'<rect width="{WIDTH}" height="{HEIGHT}" fill="white"/>',
        f'<text x="{(LEFT + right) / 2:.0f}" y="{HEIGHT - 10}" text-anchor="middle">'
        f"{escape(x_axis.label)}</text>",
        f'<text x="14" y="{HEIGHT / 2:.0f}" text-anchor="middle" '
        f'transform="rotate(-90 14 {HEIGHT / 2:.0f})">{escape(y_axis.label)}</text>',
    ]
    for x, name in scale_x.ticks():
        text.append(f'<path d="M{x:.1f} {TOP}V{bottom}" stroke="#ddd"/>')
        text.append(f'<text x="{x:.1f}" y="{bottom + 16}" text-anchor="middle">{name}</text>')
    for y, name in scale_y.ticks():
        text.append(f'<path d="M{LEFT} {y:.1f}H{right}" stroke="#ddd"/>')
        text.append(f'<text x="{LEFT - 6}" y="{y + 4:.1f}" text-anchor="end">{name}</text>')
    for index, line in enumerate(lines):
        text += _line(line, [(scale_x(x), scale_y(y)) for x, y in line.points], index)
    return "\n".join([*text, "</svg>"]) + "\n"


def _line(line: Line, places: Sequence[tuple[float, float]], index: int) -> list[str]:
    colour = COLOURS[line.colour % len(COLOURS)]
    dashes = ' stroke-dasharray="5 4"' if line.is_dashed else ""
    path = " ".join(f"{x:.1f},{y:.1f}" for x, y in places)
    y = TOP + LINE_HEIGHT * (index + 1)
    left = WIDTH - RIGHT + 12
    return [
        f'<polyline points="{path}" fill="none" stroke="{colour}"{dashes}/>',
        *(f'<circle cx="{x:.1f}" cy="{y:.1f}" r="3" fill="{colour}"/>' for x, y in places),
        f'<path d="M{left} {y - 4}h22" stroke="{colour}"{dashes}/>',
        f'<text x="{left + 28}" y="{y}">{escape(line.name)}</text>',
    ]
