"""A table at any width: no number loses a digit."""

from __future__ import annotations

import io
import re

import pytest
from rich.console import Console

from memcoord.benchmarks.tables import Part, Table, paragraphs, show, time_of

NAMES = ("what", "2 MiB pages: median [interval]", "p99", "mean", "n", "refused after")
TIMES = (5.8, 340_217.0, 1_357_204.0, 3_188_651_000.0)


def made(lines: int = 4) -> Table:
    """As ``bench grant`` shows them: times from ns to s, in columns with long heads."""
    rows = [
        [f"grant_transfer_{n}", f"{time_of(t)} [{time_of(t)} .. {time_of(t * 1.1)}]",
         time_of(t * 9), time_of(t), "1,234,567", [Part("12.3 ms", True), Part("45.6 ms")]]
        for n, t in enumerate(TIMES[:lines])
    ]  # fmt: skip
    return Table("what memory costs", NAMES, rows)


def numbers(text: str) -> list[str]:
    return sorted(re.findall(r"\d[\d,.]*", text))


@pytest.mark.parametrize("width", [40, 60, 80, 100, 132, 200])
def test_a_number_is_whole_at_every_width(width: int) -> None:
    table, out = made(), io.StringIO()
    show(table, Console(file=out, width=width, force_terminal=False))
    text = out.getvalue()
    assert "\u2026" not in text
    wanted = numbers("\n".join(paragraphs(table, 10_000)))
    assert set(wanted) <= set(numbers(text))


def test_columns_are_columns_where_they_fit() -> None:
    out = io.StringIO()
    show(made(), Console(file=out, width=200, force_terminal=False))
    assert out.getvalue().count("p99") == 1
    assert out.getvalue().count("grant_transfer_2") == 1
