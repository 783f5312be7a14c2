"""Pictures inside a page: curves, a heat map, spans on a logarithmic axis, as SVG text.

Owns: all drawing of pages that need no script, and nothing of papers, which matplotlib draws
(``memcoord.testbed.report.figures``), nor of the live page, whose browser draws. Why not one: a
page must be made in a tenth of a second by an install without extras, shows without a script, and
is the same to the byte for the same run; matplotlib takes five seconds and 177 MB for that. A paper
must be restyled and placed by its author, and wants what only a real library has. Text
in a picture is text, so it can be searched and read aloud; colours are told apart by colour-blind
eyes, and every curve bears its name. Pure. Coordinates are whole numbers, two to a pixel.
"""

from __future__ import annotations

import html
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from memcoord.testbed.archive.thinning import thinned

Floats = NDArray[np.float64]

#: Of Okabe and Ito (2008), darkened where they were too light on white.
COLOURS = ("#0072b2", "#d55e00", "#007a5a", "#b0568c", "#8a6d00", "#3a86b5", "#111111", "#7a5195")
#: From nothing to all, for maps.
SHADES = ("#eef3f8", "#c6dbef", "#8fbfdf", "#4a90c4", "#1f5f99", "#0b2f57")
WIDTH, HEIGHT = 860, 360
LEFT, RIGHT, TOP, BOTTOM = 100, 140, 18, 52
SLICES = 160
LABEL_PITCH = 28
TICKS = 5


@dataclass(frozen=True)
class Curve:
    """A line over time. ``is_step``: a level, which holds until the next; ``colour``: a number."""

    name: str
    xs: Floats
    ys: Floats
    colour: int
    is_dashed: bool = False
    is_step: bool = False


def ticks(top: float, most: int = TICKS) -> list[float]:
    """Round numbers from 0 to ``top``, at most ``most`` steps apart."""
    if not top > 0 or not math.isfinite(top):
        return [0.0]
    least = top / most
    power = 10.0 ** math.floor(math.log10(least))
    step = next(power * part for part in (1, 2, 2.5, 5, 10) if power * part >= least * (1 - 1e-9))
    return [step * number for number in range(int(top / step * (1 + 1e-9)) + 1)]


def short(value: float) -> str:
    """A tick's number: ``1,500``, ``0.25``, ``0``."""
    return f"{value:,.0f}" if value == round(value) else f"{value:,.6g}"


def curves(lines: Sequence[Curve], *, end_s: float, top: float, label: str) -> str:
    """Lines over 0 to ``end_s`` seconds and 0 to ``top``; ``label`` says what is to be seen."""
    wide, high = WIDTH - LEFT - RIGHT, HEIGHT - TOP - BOTTOM
    end_s, top = end_s or 1.0, top or 1.0

    def x(value: float) -> int:
        return LEFT + round(value / end_s * wide)

    def y(value: float) -> int:
        return TOP + high - round(min(value / top, 1.04) * high)

    parts = [_open(WIDTH, HEIGHT, label)]
    for tick in ticks(top):
        parts.append(f'<path class="g" d="M{LEFT} {y(tick)}h{wide}"/>')
        parts.append(_text(LEFT - 10, y(tick) + 8, short(tick), "end"))
    parts += [_text(x(at), HEIGHT - 16, f"{short(at)} s", "middle") for at in ticks(end_s)]
    named: list[tuple[float, str, int]] = []
    for line in lines:
        xs, ys = thinned(line.xs, line.ys, SLICES)
        if not len(xs):
            continue
        style = ' stroke-dasharray="10 7"' if line.is_dashed else ""
        colour = COLOURS[line.colour % len(COLOURS)]
        way = _path([x(value) for value in xs], [y(value) for value in ys], line.is_step)
        parts.append(f'<path class="c" stroke="{colour}"{style} d="{way}"/>')
        if not line.is_dashed:
            named.append((y(ys[-1]), line.name, line.colour))
    parts += _names(named, LEFT + wide + 10)
    return "".join([*parts, "</svg>"])


def _path(xs: Sequence[int], ys: Sequence[int], is_step: bool) -> str:
    """The line, written by its steps; what does not move is not written."""
    made = [f"M{xs[0]} {ys[0]}"]
    at_x, at_y = xs[0], ys[0]
    for number in range(1, len(xs)):
        dx, dy = xs[number] - at_x, ys[number] - at_y
        is_last = number == len(xs) - 1
        if (not dx and not dy) or (is_step and not dy and not is_last):
            continue
        if is_step:
            made.append((f"h{dx}" if dx else "") + (f"v{dy}" if dy else ""))
        else:
            made.append(f"l{dx} {dy}")
        at_x, at_y = xs[number], ys[number]
    return "".join(made)


def _names(found: list[tuple[float, str, int]], x: int) -> list[str]:
    """The names of the curves beside their ends, none upon another."""
    places = spread([at for at, _, _ in sorted(found)], LABEL_PITCH, TOP + 8, HEIGHT - BOTTOM + 8)
    return [
        f'<text x="{x}" y="{round(place) + 7}" fill="{COLOURS[colour % len(COLOURS)]}">'
        f"{html.escape(name)}</text>"
        for place, (_, name, colour) in zip(places, sorted(found), strict=True)
    ]


def spread(wanted: Sequence[float], pitch: float, low: float, high: float) -> list[float]:
    """Ascending places near ``wanted``, ``pitch`` apart and within the bounds if they hold all."""
    placed: list[float] = []
    for at in wanted:
        placed.append(max(at, placed[-1] + pitch if placed else low))
    limit = high
    for number in range(len(placed) - 1, -1, -1):
        placed[number] = min(placed[number], limit)
        limit = placed[number] - pitch
    return placed


def heat(rows: Sequence[tuple[str, Floats]], *, end_s: float, label: str) -> str:
    """A row per name, a shade per share of 0 to 1 over 0 to ``end_s``; white where nothing is."""
    pitch = LABEL_PITCH
    wide, high = WIDTH - LEFT - BOTTOM, pitch * len(rows)
    parts = [_open(WIDTH, high + BOTTOM + TOP, label)]
    ways: list[list[str]] = [[] for _ in SHADES]
    for number, (name, shares) in enumerate(rows):
        y = TOP + pitch * number
        parts.append(_text(LEFT - 10, y + 23, name, "end"))
        for begin, end, shade in _runs(shares):
            x0, x1 = (LEFT + round(at / len(shares) * wide) for at in (begin, end))
            ways[shade].append(f"M{x0} {y + pitch // 2}h{x1 - x0}")
    for colour, way in zip(SHADES, ways, strict=True):
        if way:
            own = f'stroke="{colour}" stroke-width="{pitch - 2}"'
            parts.append(f'<path {own} d="{"".join(way)}"/>')
    for tick in ticks(end_s):
        at = LEFT + round(tick / (end_s or 1.0) * wide)
        parts.append(_text(at, TOP + high + 28, f"{short(tick)} s", "middle"))
    return "".join([*parts, "</svg>"])


def _runs(shares: Floats) -> list[tuple[int, int, int]]:
    """Slices of one shade side by side: begin, end, shade."""
    known = np.nan_to_num(shares, nan=-1.0)
    shades = np.where(known < 0, -1, np.ceil(np.clip(known, 0, 1) * (len(SHADES) - 1)))
    edges = [0, *(np.flatnonzero(np.diff(shades)) + 1).tolist(), len(shades)]
    return [(a, b, int(shades[a])) for a, b in pairwise(edges) if b > a and shades[a] >= 0]


@dataclass(frozen=True)
class Span:
    """One row of a bench: its name, and p50, p90, the highest quantile it carries, its maximum."""

    name: str
    p50: float
    p90: float
    far: float
    most: float
    colour: int
    note: str = ""  # at the right, as the ratio to the row below
    is_bold: bool = False


def spans(rows: Sequence[Span], label: str, form: Callable[[float, int], str]) -> str:
    """Rows on one logarithmic axis: a dot, thick to p90, thin to the far end, dotted to the worst.

    ``form`` writes a value with its unit, to so many digits.
    """
    pitch, left, right, width = 44, 560, 330, 1760
    values = [value for row in rows for value in (row.p50, row.most) if value > 0]
    low = math.floor(math.log10(min(values, default=1.0)))
    high = max(math.ceil(math.log10(max(values, default=10.0))), low + 1)
    wide, height = width - left - right, pitch * len(rows) + 56

    def x(value: float) -> int:
        part = (math.log10(value) - low) / (high - low) if value > 0 else 0.0
        return left + round(part * wide)

    parts = [_open(width, height, label)]
    for power in range(low, high + 1):
        at = x(10.0**power)
        parts.append(f'<path class="g" d="M{at} 36V{height - 8}"/>')
        parts.append(_text(at, 24, form(10.0**power, 1), "middle"))
    for number, row in enumerate(rows):
        y, colour = 66 + pitch * number, COLOURS[row.colour % len(COLOURS)]
        bold = "b" if row.is_bold else ""
        parts.append(_text(left - 16, y + 8, row.name, "end", bold))
        for way, style in (
            (f"M{x(row.p50)} {y}H{x(row.p90)}", 'stroke-width="10"'),
            (f"M{x(row.p90)} {y}H{x(row.far)}", 'stroke-width="4"'),
            (f"M{x(row.far)} {y}H{x(row.most)}", 'stroke-width="2" stroke-dasharray="3 7"'),
        ):
            parts.append(f'<path stroke="{colour}" {style} d="{way}"/>')
        parts.append(f'<circle cx="{x(row.p50)}" cy="{y}" r="9" fill="{colour}"/>')
        parts.append(_text(left + wide + 20, y + 8, form(row.p50, 3), "start"))
        if row.note:
            parts.append(_text(width - 8, y + 8, row.note, "end", "b"))
    return "".join([*parts, "</svg>"])


def dots(points: Sequence[tuple[str, float, float]], x_label: str, label: str) -> str:
    """Named points over two axes from 0; the names beside them, none upon another."""
    wide, high = WIDTH - LEFT - 2 * RIGHT, HEIGHT - TOP - BOTTOM
    right = max((x for _, x, _ in points), default=1.0) * 1.05 or 1.0
    top = max((y for _, _, y in points), default=1.0) * 1.05 or 1.0
    parts = [_open(WIDTH, HEIGHT + 30, label)]
    for tick in ticks(top):
        y = TOP + high - round(tick / top * high)
        parts += [
            f'<path class="g" d="M{LEFT} {y}h{wide}"/>',
            _text(LEFT - 10, y + 8, short(tick), "end"),
        ]
    for tick in ticks(right):
        parts.append(_text(LEFT + round(tick / right * wide), HEIGHT - 16, short(tick), "middle"))
    parts.append(_text(LEFT + wide // 2, HEIGHT + 16, x_label, "middle"))
    named = []
    for number, (name, along, up) in enumerate(points):
        at = TOP + high - round(up / top * high)
        colour = COLOURS[number % len(COLOURS)]
        cx = LEFT + round(along / right * wide)
        parts.append(f'<circle cx="{cx}" cy="{at}" r="9" fill="{colour}"/>')
        named.append((float(at), name, number))
    parts += _names(named, LEFT + wide + 16)
    return "".join([*parts, "</svg>"])


def _open(width: int, height: int, label: str) -> str:
    return (
        f'<svg viewBox="0 0 {width} {height}" role="img" aria-label="{html.escape(label)}" '
        'fill="none">'
    )


def _text(x: int, y: int, text: str, anchor: str, kind: str = "") -> str:
    own = f' class="{kind}"' if kind else ""
    return f'<text x="{x}" y="{y}" text-anchor="{anchor}"{own}>{html.escape(text)}</text>'
