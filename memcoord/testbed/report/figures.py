"""Figures for papers and documents, drawn by matplotlib (extra ``figures``).

Owns: the one look of every figure outside of pages: of benches, of ``memcoord plot``, of the
documentation. PDF, SVG and PNG; the same figure gives the same bytes. Colours are told apart by
colour-blind eyes, and never alone: lines have markers, dashes or names. matplotlib is imported when
a figure is drawn, never before. Pages draw their own pictures, and ``memcoord.testbed.archive.svg``
says why.
"""

from __future__ import annotations

import io
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hypervisor.public.errors import ConfigError, MemcoordError

SIZE_INCHES = (8.0, 4.8)
PANEL_INCHES = (2.6, 1.7)  # of one panel of a sheet
MARGIN = 0.08  # of the axes, so that a dot at the end of a line is whole
MARKERS = "osD^v"  # another one after each ten colours
#: Okabe and Ito (2008), and two more that stand apart from theirs.
COLOURS: tuple[str, ...] = (
    "#0072b2",
    "#d55e00",
    "#009e73",
    "#cc79a7",
    "#8a6d00",
    "#56b4e9",
    "#000000",
    "#7a5195",
)
COLOURS += ("#e69f00", "#777777")
FORMATS = (".pdf", ".svg", ".png")
STYLE: dict[Any, Any] = {
    "svg.hashsalt": "memcoord",
    "svg.fonttype": "none",
    "pdf.fonttype": 42,  # letters stay letters: publishers ask for it
    "font.family": "sans-serif",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "lines.linewidth": 1.2,
}
SMALL = {"font.size": 7.5, "axes.titlesize": 8, "legend.fontsize": 7.5}
#: Nothing of the moment in a file.
METADATA: dict[str, dict[str, Any]] = {
    ".svg": {"Date": None},
    ".pdf": {"CreationDate": None},
    ".png": {"Software": None},
}
PNG_DOTS_PER_INCH = 200


class NoFigures(MemcoordError):
    """matplotlib is not installed; the text says how to install it."""


@dataclass(frozen=True)
class Axis:
    """The quantity along an axis; ``names`` stand for the values 0, 1, 2 ..."""

    label: str
    is_log: bool = False
    names: tuple[str, ...] = ()
    end: float | None = None  # from 0 to here


@dataclass(frozen=True)
class Line:
    """Points joined by a line, or one dot; lines of one ``colour`` number share it.

    ``bounds``: below and above each point, an interval. ``is_step``: a level, held until the next.
    ``is_joined``: False for dots alone.
    """

    name: str
    points: Sequence[tuple[float, float]]
    colour: int
    is_dashed: bool = False
    has_marks: bool = True
    is_step: bool = False
    is_joined: bool = True
    bounds: Sequence[tuple[float, float]] = ()


@dataclass(frozen=True)
class Figure:
    """Lines over two axes; their names stand to the right, in the order of ``lines``."""

    lines: Sequence[Line]
    x_axis: Axis
    y_axis: Axis
    title: str = ""


def svg(figure: Figure) -> str:
    """The figure as a whole SVG document; NoFigures without matplotlib."""
    canvas_of, context = _matplotlib()
    text = io.StringIO()
    with context(STYLE):
        canvas = _canvas(canvas_of, figure)
        canvas.savefig(text, format="svg", metadata=METADATA[".svg"])
    return "\n".join(line.rstrip() for line in text.getvalue().splitlines()) + "\n"


def write(figure: Figure, path: Path) -> None:
    """The figure to a file of the format that its name tells; errors as of ``write_sheet``."""
    kind = format_of(path)
    canvas_of, context = _matplotlib()
    with context(STYLE):
        _save(_canvas(canvas_of, figure), path, kind)


def write_sheet(rows: Sequence[Sequence[Figure]], path: Path) -> None:
    """Small figures in rows, one legend for all, to a file of the format that its name tells.

    The figures of a row share their y axis where it ends at the same value. ConfigError for another
    format or an unwritable file, NoFigures without matplotlib.
    """
    kind = format_of(path)
    canvas_of, context = _matplotlib()
    columns = max(map(len, rows), default=1)
    size = (PANEL_INCHES[0] * columns + 0.6, PANEL_INCHES[1] * max(len(rows), 1) + 0.5)
    with context(STYLE | SMALL):
        canvas = canvas_of(figsize=size, layout="constrained")
        ends = [{figure.y_axis.end for figure in row} for row in rows]
        share = "row" if all(len(end) == 1 and None not in end for end in ends) else "none"
        grid = canvas.subplots(max(len(rows), 1), columns, squeeze=False, sharey=share)
        shown: dict[str, Any] = {}
        for row, figures in zip(grid, rows, strict=False):
            for axes in row[len(figures) :]:
                axes.set_visible(False)
            for number, (axes, figure) in enumerate(zip(row, figures, strict=False)):
                _draw(axes, figure)
                axes.set_title(figure.title)
                if number and share == "row":
                    axes.set_ylabel("")
                handles, names = axes.get_legend_handles_labels()
                shown |= dict(zip(names, handles, strict=True))
        if shown:
            place = "outside lower center"
            count = min(len(shown), 4)
            canvas.legend(shown.values(), shown.keys(), loc=place, ncols=count, frameon=False)
        _save(canvas, path, kind)


def format_of(path: Path) -> str:
    """The format that a file's name tells; ConfigError for one that is none."""
    kind = path.suffix.lower()
    if kind not in FORMATS:
        raise ConfigError("--out", f"{path}: write a name that ends in {', '.join(FORMATS)}")
    return kind


def _save(canvas: Any, path: Path, kind: str) -> None:
    try:
        canvas.savefig(path, format=kind[1:], metadata=METADATA[kind], dpi=PNG_DOTS_PER_INCH)
    except OSError as error:
        raise ConfigError("--out", f"{path}: {error.strerror or error}") from None


def _canvas(canvas_of: Any, figure: Figure) -> Any:
    """One large figure with its legend at the right."""
    canvas = canvas_of(figsize=SIZE_INCHES, layout="constrained")
    axes = canvas.add_subplot()
    _draw(axes, figure)
    axes.margins(MARGIN)
    if figure.lines:
        canvas.legend(loc="outside right upper", frameon=False)
    return canvas


def _matplotlib() -> tuple[Any, Any]:
    try:
        from matplotlib import rc_context
        from matplotlib.figure import Figure as Canvas
    except ImportError:
        raise NoFigures("figures need matplotlib: pip install 'memcoord[figures]'") from None
    return Canvas, rc_context


def _draw(axes: Any, figure: Figure) -> None:
    axes.set_xlabel(figure.x_axis.label)
    axes.set_ylabel(figure.y_axis.label)
    axes.grid(visible=True, color="#ddd")
    if figure.x_axis.names:
        axes.set_xticks(range(len(figure.x_axis.names)), figure.x_axis.names)
    if figure.x_axis.is_log:
        axes.set_xscale("log")
    if figure.y_axis.is_log:
        axes.set_yscale("log")
    for line in figure.lines:
        _draw_line(axes, line)
    if figure.x_axis.end is not None:
        axes.set_xlim(0, figure.x_axis.end)
    if figure.y_axis.end is not None:
        axes.set_ylim(0, figure.y_axis.end)


def _draw_line(axes: Any, line: Line) -> None:
    xs, ys = [x for x, _ in line.points], [y for _, y in line.points]
    look: dict[str, Any] = {
        "color": COLOURS[line.colour % len(COLOURS)],
        "label": line.name,
        "linestyle": "none" if not line.is_joined else "--" if line.is_dashed else "-",
        "drawstyle": "steps-post" if line.is_step else "default",
    }
    if line.has_marks:
        look["marker"] = MARKERS[line.colour // len(COLOURS) % len(MARKERS)]
        look["markersize"] = 5
    if line.bounds:
        beyond = [[y - low for y, (low, _) in zip(ys, line.bounds, strict=True)]]
        beyond.append([high - y for y, (_, high) in zip(ys, line.bounds, strict=True)])
        axes.errorbar(xs, ys, yerr=beyond, capsize=3, **look)
    else:
        axes.plot(xs, ys, **look)
