"""A look at a run, drawn as lines of text for a width and a height.

Owns: what stands where, which columns a narrow terminal goes without, and the colours. A colour
never says alone what a word does not. No line is longer than the width, and no number is cut.
Pure: it returns lines; ``memcoord top`` and the progress of a run show them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

from rich.text import Text

from memcoord.testbed.watch import cells
from memcoord.testbed.watch.folding import Folded
from memcoord.testbed.watch.frame import Cost, Detail, Frame, Line

STYLES = {
    "BROKEN": "bold white on red",
    "STARVED": "bold red",
    "squeezed": "yellow",
    "idle": "dim",
    "ok": "green",
}
WAYS = {"more": "green", "less": "red", "as is": "dim"}
#: Uses of the host's memory, in the order of the bar: name, field, colour, how it is drawn.
USES = (
    ("RAM", "installed_frames", "blue", "█"),
    ("tmem", "tmem_frames", "cyan", "▓"),
    ("ready", "ready_frames", "magenta", "▒"),
    ("free", "free_frames", "white", "░"),
)
WIDE_COLUMNS, NARROW_COLUMNS, COLUMNS_MIN = 100, 60, 40
NAME_MIN, NAME_MAX, BAR_MIN, BAR_MAX = 6, 16, 6, 40
#: What is kept for the domains however low a terminal is, and what decisions get at most.
LINES_MIN, FOLDS_MAX, SHORT_LINES_MAX = 3, 8, 6
STATE_WIDTH = 8
#: What stands for the blocks where a terminal has no Unicode.
PLAIN = str.maketrans("█▓▒░┃·▁▂▃▄▅▆▇", "#=+.|...:-=+*")
#: Bars of a curve, and where it begins.
SPARKS, CURVE_LABEL = " ▁▂▃▄▅▆▇█", 30


class Column(NamedTuple):
    """A column of numbers: two lines of heading, its width, its text."""

    heading: tuple[str, str]
    width: int
    text: Callable[[Line], str]


def _ram(line: Line) -> str:
    moving = line.ram_target_frames - line.ram_frames
    arrow = "" if not moving else "^" if moving > 0 else "v"
    return cells.mib(line.ram_frames, 6) + arrow


ALWAYS = (
    Column(("RAM", "MiB"), 7, _ram),
    Column(("tmem", "MiB"), 6, lambda line: cells.mib(line.tmem_pages, 6)),
    Column(("target", "MiB"), 6, lambda line: cells.mib(line.tmem_target_pages, 6)),
)
LIVE = (
    Column(("waits", "%"), 5, lambda line: cells.share(line.waits)),
    Column(("disk", "pg/s"), 6, lambda line: cells.number(line.disk_reads, 6)),
)
WIDE = (
    Column(("refused", "puts/s"), 7, lambda line: cells.number(line.puts_refused, 7)),
    Column(("refs", "/s"), 6, lambda line: cells.number(line.references, 6)),
    Column(("grants", "/s"), 6, lambda line: cells.number(line.grants, 6, places=1)),
)


def screen(frame: Frame, width: int, height: int, ended: str = "") -> list[Text]:
    """All of it, in ``height`` lines at most. ``ended``: how the run ended, if it did."""
    width = max(width, COLUMNS_MIN)
    top = [_title(frame, ended), *_host(frame, width), *_wrapped(frame, width)]
    costs = _costs(frame.costs, frame.credit, width)
    if frame.detail is not None:
        lines = [*top, *_detail(frame.detail, width), *costs]
        return [_cut(line, width) for line in lines][:height]
    folds = [_fold(one, width) for one in frame.folds if one.first.kind in ("tmem", "ram")]
    left = height - len(top) - len(costs) - 2  # two lines of headings
    shown = folds[: max(min(FOLDS_MAX, left - LINES_MIN - 1), 0)]
    if shown:
        shown = [Text("what the policy did in the last 2 s", style="bold"), *shown]
    gone = _gone(frame)
    rows = table(frame, width, max(left - len(shown) - len(gone), LINES_MIN))
    lines = [*top, *rows, *gone, *shown, *costs]
    return [_cut(line, width) for line in lines][:height]


def short(frame: Frame, width: int) -> list[Text]:
    """The few lines that stand below the bar of ``memcoord run``."""
    width = max(width, COLUMNS_MIN)
    lines = [*_host(frame, width), *_wrapped(frame, width)]
    return [_cut(line, width) for line in [*lines, *table(frame, width, SHORT_LINES_MAX)]]


def encodable(line: Text, encoding: str | None) -> Text:
    """A line for a terminal of this encoding."""
    if (encoding or "").lower().startswith("utf"):
        return line
    plain = line.copy()
    plain.plain = line.plain.translate(PLAIN)
    return plain


def table(frame: Frame, width: int, lines_max: int) -> list[Text]:
    """A line per domain below two of headings; those that do not fit as one line of sums."""
    columns = [*ALWAYS, *LIVE, *(WIDE if width >= WIDE_COLUMNS else ())]
    longest = max([len(line.name) for line in frame.lines], default=0)
    name = min(max(longest, NAME_MIN), NAME_MAX)
    numbers = sum(column.width + 1 for column in columns)
    bar = min(width - name - 1 - STATE_WIDTH - 1 - numbers - 1, BAR_MAX)
    if width < NARROW_COLUMNS or bar < BAR_MIN:
        bar = 0
    drawn = list(_headings(columns, name, bar))
    is_cut = len(frame.lines) > lines_max
    shown = frame.lines[: lines_max - 1] if is_cut else frame.lines
    full = max(frame.host.get("tmem_capacity_pages", 0), 1)
    drawn += [_row(line, columns, name, bar, full) for line in shown]
    if is_cut:
        drawn.append(_rest(frame.lines[lines_max - 1 :]))
    return drawn


def _title(frame: Frame, ended: str) -> Text:
    text = Text(f"memcoord top  {frame.run}  ", style="bold")
    if ended:
        text.append(f"{ended}  ", style="bold yellow")
    elif frame.is_stale:
        text.append(f"NO DATA for {frame.age_s:.0f} s  ", style="bold white on red")
    text.append(f"policy {frame.policy}  every {frame.interval_ms} ms  tick {frame.tick:,}", "")
    return text


def _host(frame: Frame, width: int) -> Iterator[Text]:
    total = max(frame.host.get("total_frames", 0), 1)
    bar, drawn, before = Text(), 0, 0
    for _, name, colour, cell in USES:
        before += frame.host.get(name, 0)
        until = min(round(before / total * width), width)
        bar.append(cell * (until - drawn), style=colour)
        drawn = max(until, drawn)
    yield bar
    yield next(
        (line for line in _uses(frame, total) if line.cell_len <= width), [*_uses(frame, total)][-1]
    )


def _uses(frame: Frame, total: int) -> Iterator[Text]:
    """The bar in numbers, in forms that are shorter and shorter."""
    for has_cell, gap, has_all in ((True, "  ", True), (False, "  ", True), (False, " ", False)):
        parts = Text()
        for name, key, colour, cell in USES:
            frames = frame.host.get(key, 0)
            if frames or has_all:
                mark = f"{cell} " if has_cell else ""
                parts.append(f"{mark}{name} {cells.mib(frames)}{gap}", style=colour)
        parts.append(f"of {cells.mib(total)} MiB")
        yield parts


def _wrapped(frame: Frame, width: int) -> Iterator[Text]:
    """What is wrong, then the sentence, broken between words."""
    is_bad = any(line.state in ("STARVED", "BROKEN") for line in frame.lines)
    style = "bold red" if is_bad else "green"
    told = [(notice, "bold yellow") for notice in frame.notices[-3:]]
    for words, how in [*told, (frame.sentence, style)]:
        row = ""
        for word in words.split(" "):
            if row and len(row) + 1 + len(word) > width:
                yield Text(row, style=how)
                row = ""
            row = f"{row} {word}" if row else word
        yield Text(row, style=how)


def _headings(columns: Sequence[Column], name: int, bar: int) -> Iterator[Text]:
    for part in (0, 1):
        words = ("", "") if part == 0 else ("domain", "state")
        text = f"{words[0]:<{name}} {words[1]:<{STATE_WIDTH}}"
        text += "".join(f" {column.heading[part]:>{column.width}}" for column in columns)
        if bar:
            text += f" {('tmem █ held' if part == 0 else '     ┃ target')[:bar]}"
        yield Text(text.rstrip(), style="dim" if part == 0 else "bold")


def _row(line: Line, columns: Sequence[Column], name: int, bar: int, full: int) -> Text:
    text = Text(f"{cells.named(line.name, name):<{name}} ")
    text.append(f"{line.state:<{STATE_WIDTH}}", style=STYLES.get(line.state, ""))
    text.append("".join(f" {column.text(line):>{column.width}}" for column in columns))
    if bar:
        text.append(" ")
        text.append_text(_bar(line, full, bar))
    return text


def _bar(line: Line, full: int, width: int) -> Text:
    """What a domain has in tmem and its target, on a scale that all domains share."""
    held = min(width, round(line.tmem_pages / full * width))
    if line.tmem_pages and not held:
        held = 1  # anything above zero must be seen
    text = Text("█" * held, style="cyan")
    text.append("·" * (width - held), style="dim")
    if line.tmem_target_pages < 0:
        return text
    at = min(width - 1, round(line.tmem_target_pages / full * width))
    return Text.assemble(text[:at], ("┃", "bold magenta"), text[at + 1 :])


def _rest(lines: Sequence[Line]) -> Text:
    """Domains that found no line of their own."""
    worst = lines[0].state if lines else ""
    ram, tmem = sum(line.ram_frames for line in lines), sum(line.tmem_pages for line in lines)
    return Text(
        f"and {len(lines)} more ({worst} or better): RAM {cells.mib(ram)} MiB, "
        f"tmem {cells.mib(tmem)} MiB",
        style="dim",
    )


def _gone(frame: Frame) -> list[Text]:
    """Domains that are not here any more, and how they ended."""
    told = ", ".join(f"{one.name} {one.state}" for one in frame.gone)
    return [Text(f"not here any more: {told}", style="dim")] if told else []


def _fold(one: Folded, width: int) -> Text:
    text = Text(f"{cells.named(one.first.domain, NAME_MAX):<8} {one.first.kind:<4} ")
    text.append(f"{one.moved or 'as is'} {one.way if one.moves else ''}".rstrip(), WAYS[one.way])
    room = width - len(text) - 2
    told = one.told
    text.append(f"  {told if len(told) <= room else _until_word(told, room)}")
    return text


def _until_word(text: str, room: int) -> str:
    """As many whole words as there is room for: no number loses a digit."""
    kept = text[: max(room - 3, 0)].rpartition(" ")[0]
    return f"{kept} .." if kept else ""


def _costs(costs: Sequence[Cost], credit: float, width: int) -> list[Text]:
    """What grants cost, by path; the guest's word and the host's."""
    if not costs and not credit:
        return []
    lines = [Text("grant latency, last 10 s", style="bold")]
    lines[0].append(f"   credit {cells.number(credit, 6, places=1)}/s, nobody waits", style="dim")
    for path in ("ring", "transfer"):
        words = [_cost(cost) for cost in costs if cost.path == path]
        joined = f"  {path:<9}" + "   ".join(words)
        if words and len(joined) <= width:
            lines.append(Text(joined))
        else:
            lines += [Text(f"  {path:<9}{word}") for word in words]
    return lines


def _cost(cost: Cost) -> str:
    tail = "" if cost.p99_ns is None else f", p99 {cells.span(cost.p99_ns)}"
    count = cells.number(float(cost.count), 6)
    who = "waited" if cost.word == "guest" else "host"
    return f"{who} {cells.span(cost.p50_ns)}{tail} ({count})"


def _detail(detail: Detail, width: int) -> Iterator[Text]:
    yield Text(f"{detail.name}, by {detail.mechanism or 'an unknown mechanism'}", style="bold")
    if detail.unreached:
        yield Text(detail.unreached, style="yellow")
    yield from _curves(detail, width)
    yield Text("what the policy did in the last minute", style="bold")
    folds = detail.folds[-FOLDS_MAX:]
    yield from (_fold(one, width) for one in folds)
    if not folds:
        yield Text("nothing", style="dim")
    yield Text("counters", style="bold")
    each = 38
    per_line = max(width // each, 1)
    pairs = [f"{name} {value:,}" for name, value in sorted(detail.counts.items())]
    for at in range(0, len(pairs), per_line):
        yield Text("".join(f"{pair:<{each}}" for pair in pairs[at : at + per_line]).rstrip())


def _curves(detail: Detail, width: int) -> Iterator[Text]:
    """The last minute as one row each, and what more tmem would spare the domain."""
    room = max(width - CURVE_LABEL, 10)
    trail = detail.trail[-room:]
    rows = (
        ("waits", [one.waits or 0.0 for one in trail], 1.0, "100 %"),
        ("RAM", [float(one.ram_frames) for one in trail], 0.0, ""),
        ("tmem", [float(one.tmem_pages) for one in trail], 0.0, ""),
    )
    for name, values, full, said in rows:
        top = full or max(values, default=0.0)
        said = said or f"{cells.mib(round(top))} MiB"
        yield Text(f"{name:<6} full bar {said:<14}{_spark(values, top)}")
    if detail.curve:
        step = max(len(detail.curve) // room + 1, 1)
        values = [ratio / 1000 for ratio in detail.curve[::step]]
        yield Text(f"{'misses with 0 to all of tmem':<{CURVE_LABEL}}{_spark(values, 1.0)}")


def _spark(values: Sequence[float], top: float) -> str:
    """A bar per value; anything above zero is seen."""
    last = len(SPARKS) - 1
    return "".join(
        SPARKS[0 if value <= 0 or top <= 0 else max(1, min(last, round(value / top * last)))]
        for value in values
    )


def _cut(line: Text, width: int) -> Text:
    """A line no longer than the width, ended at a word."""
    if line.cell_len <= width:
        return line
    kept = line.plain[:width].rpartition(" ")[0]
    return line[: len(kept)]
