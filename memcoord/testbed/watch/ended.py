"""A run that is over, as the live views would have shown it: its end, or all of it again.

Owns: the way from the files of a run directory back to messages of the feed: the ticks of
``series.csv``, and what was decided and counted meanwhile. Pure but for reading. Only what these
files have is told: a row has fewer columns than a tick had.
"""

from __future__ import annotations

import csv
import heapq
from collections import deque
from collections.abc import Iterable, Iterator
from contextlib import suppress
from itertools import groupby, islice
from pathlib import Path
from typing import Any

from hypervisor.public.feed import DecisionRow, FeedMessage, Hello, Latencies, LatencyRow, Why
from hypervisor.public.latency import Counts
from hypervisor.public.units import FRAME_BYTES
from memcoord.testbed.watch import kept
from memcoord.testbed.watch.history import WINDOW_S, History
from memcoord.testbed.watch.latencies import added
from memcoord.testbed.watch.publications import Publication

SERIES = "series.csv"
#: Rows looked at, from the end on: the last window of 64 domains and short ticks.
ROWS_MAX = 64 * 400
#: Ticks that tell how long one is.
STEPS = 50
#: The columns of a row that are of the whole tick.
_OF_TICK = ("policy", "round", "tick", "time_s", "domain")

_Row = dict[str, str]
#: The policy, and the number of its round.
Part = tuple[str, int]


def history_of(directory: Path) -> History | None:
    """The end of the last policy's run in ``directory``; None where no tick was kept."""
    rows = list(deque(_rows(directory), maxlen=ROWS_MAX))
    if not rows:
        return None
    history, part = History(), _part(rows[-1])
    ticks = list(_ticks(row for row in rows if _part(row) == part))
    history.hear(_hello(directory, part[0], ticks))
    for tick in ticks:
        history.hear(tick)
    since_ns = ticks[-1].monotonic_ns - round(WINDOW_S * 1e9)
    for why in _decided(directory, part):
        if why.monotonic_ns >= since_ns:
            history.hear(why)
    for counted in deque(_counted(directory, part), maxlen=1):
        history.hear(counted)
    return history


def parts(directory: Path) -> dict[Part, float]:
    """What can be shown again, every policy's run of which ticks were kept, and its seconds."""
    return {_part(row): float(row["time_s"]) for row in _rows(directory)}


def messages(directory: Path, part: Part) -> Iterator[Publication | FeedMessage]:
    """All that is kept of one policy's run, in the order in which it was so."""
    ticks = _ticks(row for row in _rows(directory) if _part(row) == part)
    head = list(islice(ticks, STEPS))
    if not head:
        return
    yield _hello(directory, part[0], head)
    told: tuple[Iterable[Publication | Why | Latencies], ...] = (
        *(_decided(directory, part), _counted(directory, part)),
        *(head, ticks),
    )
    yield from heapq.merge(*told, key=lambda message: message.monotonic_ns)


def _rows(directory: Path) -> Iterator[_Row]:
    """The rows of all ticks; none where there is no such file, or no more where it is broken."""
    with (
        suppress(OSError, UnicodeDecodeError, csv.Error),
        (directory / SERIES).open(newline="", encoding="utf-8") as file,
    ):
        for row in csv.DictReader(file):
            if None not in row.values():  # the last one of a run that was killed
                yield row


def _part(row: _Row) -> Part:
    return row["policy"], int(row["round"])


def _hello(directory: Path, policy: str, ticks: list[Publication]) -> Hello:
    begin_ns, end_ns = ticks[0].monotonic_ns, ticks[-1].monotonic_ns
    step_ms = (end_ns - begin_ns) / 1e6 / (len(ticks) - 1) if len(ticks) > 1 else 0.0
    domain = ticks[0].domains[0]
    columns = [name for name in domain if name != "name"]
    where = directory.name, "", policy
    return Hello(2, 0, 0, *where, round(step_ms), FRAME_BYTES, 0, [], columns, [], [])


def _ticks(rows: Iterable[_Row]) -> Iterator[Publication]:
    for tick, own in groupby(rows, key=lambda row: int(row["tick"])):
        yield _tick(tick, list(own))


def _tick(tick: int, rows: list[_Row]) -> Publication:
    host = {
        name.removeprefix("host_"): int(value)
        for name, value in rows[0].items()
        if name.startswith("host_") and value
    }
    host["ready_frames"] = 0
    kinds = ("free_frames", "installed_frames", "tmem_frames")
    host["total_frames"] = sum(host.get(name, 0) for name in kinds)
    host["tmem_capacity_pages"] = host.get("tmem_frames", 0) + host.get("free_frames", 0)
    domains: list[dict[str, Any]] = []
    for row in rows:
        values = {
            name: int(value)
            for name, value in row.items()
            if value and name not in _OF_TICK and not name.startswith("host_")
        }
        domains.append({"name": row["domain"], **values})
    return Publication(tick, round(float(rows[0]["time_s"]) * 1e9), host, domains)


def _decided(directory: Path, part: Part) -> Iterator[Why]:
    for one in kept.decisions(directory):
        if (one.policy, one.round) == part:
            row = DecisionRow(
                *(one.domain, one.kind, one.old, one.new, one.asked, one.rule, one.clamp)
            )
            yield Why(2, round(one.time_s * 1e9), one.tick, [row])


def _counted(directory: Path, part: Part) -> Iterator[Latencies]:
    """What had been counted by each second; a run keeps what came in that second."""
    total: dict[tuple[str, str, str], Counts] = {}
    own = (one for one in kept.latencies(directory) if (one.policy, one.round) == part)
    for time_s, lines in groupby(own, key=lambda one: one.time_s):
        for one in lines:
            key = one.domain, one.path, one.word
            total[key] = added((total.get(key, {}), one.counts))
        rows = [LatencyRow(*key, dict(counts)) for key, counts in total.items()]
        yield Latencies(2, round(time_s * 1e9), rows)
