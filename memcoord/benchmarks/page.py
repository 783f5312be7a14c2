"""The pages of ``bench interference`` and ``bench bursts``: a table between markers, a figure.

``python -m memcoord.benchmarks.page RESULT.json docs/PAGE.md`` replaces what is between
the markers of the page and writes the figure beside it, with the page's name.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import msgspec
from rich.console import Console
from rich.table import Table

from memcoord.benchmarks.bursts import table as bursts_table
from memcoord.benchmarks.interference import table as interference_table

BEGIN, END = "<!-- measured: begin -->", "<!-- measured: end -->"
#: By bench: its tables, as (title, head, lines), and its figure.
VIEWS = {
    "interference": (interference_table.tables, interference_table.figure),
    "bursts": (bursts_table.tables, bursts_table.figure),
}


def show(result: Mapping[str, Any], console: Console) -> None:
    """Print the tables."""
    for title, head, lines in VIEWS[result["bench"]][0](result):
        shown = Table(title=title, title_justify="left")
        for name in head:
            shown.add_column(name, justify="right" if name else "left", no_wrap=True)
        for line in lines:
            shown.add_row(*line)
        console.print(shown)


def markdown(result: Mapping[str, Any]) -> str:
    """The tables, the ratios with a target, and the machine."""
    machine = result["machine"]
    text = [f"Measured on: {machine['cpu']}, {machine['cores']} cores, Linux {machine['kernel']};"]
    text.append(f"load before the run {machine['load_before_1m']}.")
    for title, head, lines in VIEWS[result["bench"]][0](result):
        text += ["", f"**{title}**", "", *_rows(head, lines)]
    measured = [(key, found) for key, found in result["targets"].items() if found["measured"]]
    if measured:
        lines = [
            [key, f"{found['measured']:.3g}", f"{found['must']:g}", f"{found['aim']:g}"]
            for key, found in measured
        ]
        text += ["", *_rows(["ratio", "measured", "must", "aim"], lines)]
    text += [f"\nLeft out: {', '.join(result['skipped'])}."] if result["skipped"] else []
    return "\n".join(text) + "\n"


def _rows(head: Sequence[str], lines: Sequence[Sequence[str]]) -> Iterator[str]:
    for cells in (head, ["---", *["--:"] * (len(head) - 1)], *lines):
        yield f"| {' | '.join(cells)} |"


def write(result_path: Path, page: Path) -> None:
    """Fill the page and draw its figure; ValueError when it has no markers."""
    result = msgspec.json.decode(result_path.read_bytes())
    head, begin, rest = page.read_text(encoding="utf-8").partition(BEGIN)
    _, end, tail = rest.partition(END)
    if not begin or not end:
        raise ValueError(f"{page}: no {BEGIN} ... {END}")
    page.write_text(f"{head}{BEGIN}\n{markdown(result)}{END}{tail}", encoding="utf-8")
    page.with_suffix(".svg").write_text(VIEWS[result["bench"]][1](result), encoding="utf-8")


if __name__ == "__main__":
    write(Path(sys.argv[1]), Path(sys.argv[2]))
