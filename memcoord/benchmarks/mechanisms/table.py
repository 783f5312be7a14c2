"""What ``memcoord bench mechanisms`` prints, and the table of docs/mechanisms.md.

Owns: the table of mechanisms, one per kind of pages, from the bench's JSON; in a terminal, and as
Markdown between the markers of the document:
``python -m memcoord.benchmarks.mechanisms.table mechanisms.json docs/mechanisms.md``.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from statistics import median
from typing import Any

import msgspec
from rich.console import Console
from rich.table import Table

from hypervisor.public.units import AREA_BYTES
from memcoord.benchmarks.mechanisms.bench import BACKINGS, LOOPS, NAMES

BEGIN, END = "<!-- measured: begin -->", "<!-- measured: end -->"
GIB = float(1 << 30)
MISSING = "-"

Cell = Callable[[Mapping[str, Any], str, str], str]


def _number(value: float) -> str:
    return f"{value:,.0f}" if value >= 1000 else f"{value:.3g}"


def _rate(what: str) -> Cell:
    """GiB/s, of the median."""

    def cell(result: Mapping[str, Any], name: str, pages: str) -> str:
        row = result["rows"].get(f"{name} {what} {pages}")
        if row is None:
            return MISSING
        return _number(AREA_BYTES / GIB / (row["p50"] / 1e9))

    return cell


def _us(what: str, quantile: str) -> Cell:
    def cell(result: Mapping[str, Any], name: str, pages: str) -> str:
        row = result["rows"].get(f"{name} {what} {pages}")
        return MISSING if row is None else _number(row[quantile] / 1e3)

    return cell


def _cpu(what: str) -> Cell:
    """Milliseconds per GiB."""

    def cell(result: Mapping[str, Any], name: str, pages: str) -> str:
        row = result["rows"].get(f"{name} cpu {what} {pages}")
        return MISSING if row is None else _number(row["p50"] / 1e6 * GIB / AREA_BYTES)

    return cell


def _extra(what: str, key: str, scale: float = 1.0) -> Cell:
    """What a row has besides its times; of several, the median."""

    def cell(result: Mapping[str, Any], name: str, pages: str) -> str:
        value = result["rows"].get(f"{name} {what} {pages}", {}).get(key)
        if value is None:
            return MISSING
        return _number(scale * (median(value) if isinstance(value, list) else value))

    return cell


def _share(role: str, part: str = "") -> Cell:
    """Throughput while memory is moved, of that undisturbed."""

    def cell(result: Mapping[str, Any], name: str, pages: str) -> str:
        ratio = result["ratios"].get(f"{name} {role} resizing/undisturbed{part} {pages}")
        return MISSING if ratio is None else f"{ratio:.2f}"

    return cell


LINES: dict[str, Cell] = {
    "shrink touched, GiB/s": _rate("shrink touched"),
    "  us per 2 MiB": _us("shrink touched", "p50"),
    "shrink untouched, GiB/s": _rate("shrink untouched"),
    "  us per 2 MiB ": _us("shrink untouched", "p50"),
    "grow, GiB/s": _rate("grow"),
    "  us per 2 MiB  ": _us("grow", "p50"),
    "grow and touch, GiB/s": _rate("grow and touch"),
    "  us per 2 MiB   ": _us("grow and touch", "p50"),
    "  share in huge pages": _extra("grow and touch", "huge_share"),
    "first usable frame, us": _us("first frame", "p50"),
    "transfer 2 MiB p50, us": _us("transfer", "p50"),
    "  p99": _us("transfer", "p99"),
    "  p99.9": _us("transfer", "p999"),
    "CPU shrinking, ms/GiB": _cpu("shrink touched"),
    "CPU grow, touch, ms/GiB": _cpu("grow and touch"),
    "granule, KiB": _extra("shrink touched", "granule_kib"),
    "donor's throughput": _share("donor"),
    "  1st percentile": _share("donor", " p1"),
    "bystander's throughput": _share("bystander"),
    "  1st percentile ": _share("bystander", " p1"),
    "job, MiB x min": _extra("job", "gib_min", 1024),
    "  that it used": _extra("job", "gib_min_used", 1024),
    "  in a fixed size": _extra("job", "gib_min_static", 1024),
}


def table(result: Mapping[str, Any], pages: str) -> tuple[list[str], list[list[str]]]:
    """The mechanisms measured with one kind of pages, and a line per figure; none: no lines."""
    names = [name for name in NAMES if f"{name} shrink touched {pages}" in result["rows"]]
    lines = [[head, *(cell(result, name, pages) for name in names)] for head, cell in LINES.items()]
    return names, lines if names else []


def show(result: Mapping[str, Any], console: Console) -> None:
    """Print the tables; what the figures are, beneath."""
    for pages in BACKINGS:
        names, lines = table(result, pages)
        if not lines:
            continue
        shown = Table(title=f"mechanisms, pages of {pages}", title_justify="left")
        shown.add_column("", no_wrap=True)
        for name in names:
            shown.add_column(name.replace(" ", "\n"), justify="right", no_wrap=True)
        for line in lines:
            shown.add_row(*line)
        console.print(shown)
    loops = " and ".join(LOOPS)
    console.print(
        "medians; throughput: while memory is moved, of that undisturbed, the worse of "
        f"{loops}; its 1st percentile likewise",
        highlight=False,
    )


def markdown(result: Mapping[str, Any]) -> str:
    """The same for the document, with the machine it was measured on."""
    machine = result["machine"]
    text = [f"Measured on: {machine['cpu']}, {machine['cores']} cores, Linux {machine['kernel']}."]
    for pages in BACKINGS:
        names, lines = table(result, pages)
        if lines:
            text += ["", f"Pages of {pages}:", "", _line(["", *names])]
            text += [_line(["---"] * (1 + len(names))), *map(_line, lines)]
    text += ["", _line(["ratio", "measured", "must", "aim"]), _line(["---"] * 4)]
    for key, target in result["targets"].items():
        measured = target["measured"]
        shown = MISSING if measured is None else _number(measured)
        text.append(_line([key, shown, f"{target['must']:g}", f"{target['aim']:g}"]))
    return "\n".join(text) + "\n"


def _line(cells: list[str]) -> str:
    return f"| {' | '.join(cell.rstrip() for cell in cells)} |"


def write(result_path: Path, document: Path) -> None:
    """Put the table between the markers; ValueError when there are none."""
    text = document.read_text()
    head, begin, rest = text.partition(BEGIN)
    _, end, tail = rest.partition(END)
    if not begin or not end:
        raise ValueError(f"{document}: no {BEGIN} ... {END}")
    made = markdown(msgspec.json.decode(result_path.read_bytes()))
    document.write_text(f"{head}{BEGIN}\n{made}{END}{tail}")


if __name__ == "__main__":
    write(Path(sys.argv[1]), Path(sys.argv[2]))
