"""Figures of lines and dots as SVG, drawn by matplotlib (extra ``figures``).

Owns: the look of every figure. The same figure gives the same bytes. matplotlib is imported when a
figure is drawn, never before.
"""

from __future__ import annotations

import io
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from hypervisor.public.errors import MemcoordError

SIZE_INCHES = (8.0, 4.8)
MARGIN = 0.08  # of the axes, so that a dot at the end of a line is whole
MARKERS = "osD^v"  # another one after each ten colours
STYLE: dict[Any, Any] = {
    "svg.hashsalt": "memcoord",
    "svg.fonttype": "none",
    "font.family": "sans-serif",
}


class NoFigures(MemcoordError):
    """matplotlib is not installed; the text says how to install it."""


@dataclass(frozen=True)
class Axis:
    """The quantity along an axis; ``names`` stand for the values 0, 1, 2 ..."""

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


@dataclass(frozen=True)
class Figure:
    """Lines over two axes; their names stand to the right, in the order of ``lines``."""

    lines: Sequence[Line]
    x_axis: Axis
    y_axis: Axis


def svg(figure: Figure) -> str:
    """The figure as a whole SVG document; NoFigures without matplotlib."""
    try:
        from matplotlib import rc_context
        from matplotlib.figure import Figure as Canvas
    except ImportError:
        raise NoFigures("figures need matplotlib: pip install 'memcoord[figures]'") from None
    with rc_context(STYLE):
        canvas = Canvas(figsize=SIZE_INCHES, layout="constrained")
        axes = canvas.add_subplot()
        axes.set_xlabel(figure.x_axis.label)
        axes.set_ylabel(figure.y_axis.label)
        axes.grid(visible=True, color="#ddd")
        axes.margins(MARGIN)
        if figure.x_axis.names:
            axes.set_xticks(range(len(figure.x_axis.names)), figure.x_axis.names)
        if figure.x_axis.is_log:
            axes.set_xscale("log")
        if figure.y_axis.is_log:
            axes.set_yscale("log")
        for line in figure.lines:
            xs, ys = [x for x, _ in line.points], [y for _, y in line.points]
            style = "--" if line.is_dashed else "-"
            colour, marker = f"C{line.colour % 10}", MARKERS[line.colour // 10 % len(MARKERS)]
            axes.plot(xs, ys, style, marker=marker, markersize=5, color=colour, label=line.name)
        if figure.lines:
            canvas.legend(loc="outside right upper", frameon=False)
        text = io.StringIO()
        canvas.savefig(text, format="svg", metadata={"Date": None})
    return "\n".join(line.rstrip() for line in text.getvalue().splitlines()) + "\n"
