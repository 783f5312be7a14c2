"""Tables of results, in a terminal and as Markdown between the markers of a page.

Owns: ``Table``, how its cells look in both, and the markers. Pure but for ``show``.
Used by: every bench, through ``memcoord.benchmarks.runner``.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from rich.console import Console
from rich.measure import Measurement
from rich.padding import PaddingDimensions
from rich.table import Table as RichTable

from hypervisor.public.errors import ConfigError

MISSING = "-"
#: From so many columns on, a terminal's table has narrow heads and no padding.
WIDE_COLUMNS = 9
TIME_UNITS = ((1e9, "s"), (1e6, "ms"), (1e3, "us"), (1.0, "ns"))
WHOLE_FROM = 1000
#: Wider than any table.
UNBOUNDED = 10_000


class Part(NamedTuple):
    """One of the values in a cell that has several; the best of its row or column stands out."""

    text: str
    is_best: bool = False


Cell = str | Sequence[Part]


@dataclass(frozen=True)
class Table:
    """A title, the names of the columns, and lines of as many cells; the first names the line."""

    title: str
    head: Sequence[str]
    lines: Sequence[Sequence[Cell]]


def show(table: Table, console: Console) -> None:
    """Print a table; a cell's parts stand one above the other, the best with a star.

    Where the terminal is too narrow for the columns, each line is printed as a paragraph: a number
    never loses a digit.
    """
    is_wide = len(table.head) >= WIDE_COLUMNS
    padding: PaddingDimensions = (0, 0) if is_wide else (0, 1)
    shown = RichTable(title=table.title, title_justify="left", padding=padding)
    for number, name in enumerate(table.head):
        head = name.replace(" ", "\n") if is_wide else name
        shown.add_column(head, justify="right" if number else "left", no_wrap=True)
    for line in table.lines:
        shown.add_row(*map(_terminal_cell, line))
    needs = Measurement.get(console, console.options.update(width=UNBOUNDED), shown).maximum
    if needs <= console.width:
        console.print(shown)
        return
    for text in paragraphs(table, console.width):
        console.print(text, markup=False, highlight=False, soft_wrap=True)


def paragraphs(table: Table, width: int) -> list[str]:
    """A table without columns: the name of each line, and below it each head with its value."""
    said = [table.title]
    for line in table.lines:
        said.append(_terminal_cell(line[0]).replace("\n", " "))
        row = ""
        for head, cell in zip(table.head[1:], line[1:], strict=False):
            value = _terminal_cell(cell).replace("\n", " ")
            pair = f"{head}: {value}" if value else ""
            if row and len(row) + len(pair) + 6 > width:
                said.append(f"    {row}")
                row = ""
            row = "; ".join(filter(None, [row, pair]))
        said += [f"    {row}"] if row else []
    return said


def _terminal_cell(cell: Cell) -> str:
    if isinstance(cell, str):
        return cell
    parts = [part.text.replace(" ", "") + "*" * part.is_best for part in cell]
    return "\n".join(parts).rstrip()


def markdown(table: Table) -> list[str]:
    """The lines of a table for a page; a cell's parts stand beside each other, the best bold."""
    rule = ["---", *["--:"] * (len(table.head) - 1)]
    lines = [f"| {' | '.join(map(_page_cell, cells))} |" for cells in table.lines]
    return [f"**{table.title}**", "", f"| {' | '.join(table.head)} |", f"| {' | '.join(rule)} |",
            *lines]  # fmt: skip


def _page_cell(cell: Cell) -> str:
    if isinstance(cell, str):
        return cell.rstrip()
    return " / ".join(f"**{p.text}**" if p.is_best else p.text for p in cell if p.text)


def with_interval(figure: Mapping[str, Any], form: str) -> str:
    """A {"value", "low", "high"} as "12.1 [8.0, 16.3]", each in ``form``; MISSING without a value.

    A bound that is missing or NaN is none.
    """
    value, low, high = (figure.get(key) for key in ("value", "low", "high"))
    if value is None or math.isnan(value):
        return MISSING
    text = format(value, form)
    if low is None or high is None or math.isnan(low) or math.isnan(high):
        return text
    return f"{text} [{format(low, form)}, {format(high, form)}]"


def begin(name: str) -> str:
    """The marker before the part ``name`` of a page."""
    return f"<!-- {name} begin -->"


def end(name: str) -> str:
    """The marker behind that part."""
    return f"<!-- {name} end -->"


def fill(page: str, name: str, text: str) -> str:
    """``page`` with ``text`` between the markers of ``name``; ConfigError when they are not there.

    The same text gives the same page.
    """
    before, first, rest = page.partition(begin(name))
    _, last, after = rest.partition(end(name))
    if not first or not last:
        raise ConfigError("--markdown", f"the file has no {begin(name)} and {end(name)}")
    return f"{before}{first}\n{text.strip()}\n{last}{after}"


def time_of(value_ns: float) -> str:
    """A time in the unit that suits it."""
    for scale, unit in TIME_UNITS:
        if value_ns >= scale:
            return f"{short(value_ns / scale)} {unit}"
    return f"{short(value_ns)} ns"


def span_of(row: Mapping[str, Any]) -> str:
    """The median of a row of times, and its interval."""
    return f"{time_of(row['median'])} [{time_of(row['p50_low'])} .. {time_of(row['p50_high'])}]"


def short(value: float) -> str:
    """A figure in three digits, or whole when it is large."""
    return f"{value:,.0f}" if value >= WHOLE_FROM else f"{value:.3g}"
