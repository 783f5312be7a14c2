"""tmem used and target over time, as lines of text.

Owns: the drawing, nothing else; pure. One row of bars per domain for what it used and one for its
target, all to one scale, so that rows may be compared.
"""

from __future__ import annotations

from collections.abc import Sequence
from operator import attrgetter

from memcoord.testbed.report.series import Sample

BLOCKS = " ▁▂▃▄▅▆▇█"
ASCII = " .:-=+*#@"
COLUMNS_MAX = 60


def tmem_chart(
    samples: Sequence[Sample],
    *,
    columns: int = COLUMNS_MAX,
    bars: str = BLOCKS,
) -> list[str]:
    """Lines for the samples of one policy; empty when there is nothing to draw.

    A column holds the last value seen in its slice of time; blank before a domain's first sample
    and after its last. The full bar is the highest value of any row.
    """
    if not samples:
        return []
    start_s = min(sample.time_s for sample in samples)
    span_s = max(sample.time_s for sample in samples) - start_s
    top = max(max(sample.used_pages, sample.target_pages) for sample in samples)
    names = sorted({sample.domain for sample in samples})
    width = max(map(len, names))
    lines = [f"full bar = {top:,} pages, {span_s:.1f} s from left to right"]
    for name in names:
        own = [sample for sample in samples if sample.domain == name]
        slots = [min(columns - 1, _column(s.time_s - start_s, span_s, columns)) for s in own]
        for what, of in (("used", "used_pages"), ("target", "target_pages")):
            values = list(map(attrgetter(of), own))
            label = f"{name if what == 'used' else '':<{width}} {what:<6}"
            if max(values) < 0:
                lines.append(f"{label} no limit")
                continue
            lines.append(f"{label} {_row(slots, values, columns, top, bars)} max {max(values):,}")
    return lines


def _column(elapsed_s: float, span_s: float, columns: int) -> int:
    return int(elapsed_s / span_s * columns) if span_s > 0 else 0


def _row(slots: list[int], values: list[int], columns: int, top: int, bars: str) -> str:
    cells: list[int | None] = [None] * columns
    for slot, value in zip(slots, values, strict=True):
        cells[slot] = max(0, value)
    last = max(slots)
    row, shown = [], None
    for index, cell in enumerate(cells):
        # A slice without a tick shows the values of the tick before.
        shown = shown if cell is None else cell
        row.append(bars[0] if shown is None or index > last else _bar(shown, top, bars))
    return "".join(row)


def _bar(value: int, top: int, bars: str) -> str:
    if value <= 0 or top <= 0:
        return bars[0]
    # Anything above zero must be seen.
    return bars[max(1, round(value / top * (len(bars) - 1)))]
