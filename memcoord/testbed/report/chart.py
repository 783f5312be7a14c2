"""tmem used and target over time, and RAM where it moved, as lines of text.

Owns: the drawing, nothing else; pure. One row of bars per domain for what it used and one for its
target, all to one scale, so that rows may be compared.
"""

from collections.abc import Sequence
from operator import attrgetter

from memcoord.testbed.report.series import Sample

BLOCKS = " ▁▂▃▄▅▆▇█"
ASCII = " .:-=+*#@"
COLUMNS_MAX = 60


def tmem_chart(
    samples: Sequence[Sample], *, columns: int = COLUMNS_MAX, bars: str = BLOCKS
) -> list[str]:
    """Lines for tmem of one policy's samples; empty where nobody had a page of it, nor a target.

    A column holds the last value seen in its slice of time; blank before a domain's first sample
    and after its last. The full bar is the highest value of any row.
    """
    if not any(sample.used_pages or sample.target_pages for sample in samples):
        return []  # a host without tmem
    return _chart(samples, columns, bars, ("used", "used_pages"), ("target", "target_pages"))


def ram_chart(
    samples: Sequence[Sample], *, columns: int = COLUMNS_MAX, bars: str = BLOCKS
) -> list[str]:
    """The same for RAM; empty where no domain's RAM moved."""
    sizes: dict[str, set[int]] = {}
    for sample in samples:
        sizes.setdefault(sample.domain, set()).add(sample.ram_frames)
    if all(len(own) <= 1 for own in sizes.values()):
        return []
    return _chart(samples, columns, bars, ("held", "ram_frames"), ("target", "ram_target_frames"))


def _chart(samples: Sequence[Sample], columns: int, bars: str, *rows: tuple[str, str]) -> list[str]:
    """``rows``: what each row of a domain is called, and the field of a sample it shows."""
    if not samples:
        return []
    start_s = min(sample.time_s for sample in samples)
    span_s = max(sample.time_s for sample in samples) - start_s
    top = max(getattr(sample, of) for sample in samples for _, of in rows)
    names = sorted({sample.domain for sample in samples})
    width = max(map(len, names))
    lines = [f"full bar = {top:,} pages, {span_s:.1f} s from left to right"]
    for name in names:
        own = [sample for sample in samples if sample.domain == name]
        parts = ((sample.time_s - start_s) / (span_s or 1) for sample in own)
        slots = [min(columns - 1, int(part * columns)) for part in parts]
        for what, of in rows:
            values = list(map(attrgetter(of), own))
            label = f"{name if what == rows[0][0] else '':<{width}} {what:<6}"
            if max(values) < 0:
                lines.append(f"{label} no limit")
                continue
            lines.append(f"{label} {_row(slots, values, columns, top, bars)} max {max(values):,}")
    return lines


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
    # Anything above zero must be seen.
    is_seen = value > 0 and top > 0
    return bars[max(1, round(value / top * (len(bars) - 1))) if is_seen else 0]
