"""The end of a run that is over, as the live views would have shown it.

Owns: the way from the files of a run directory back to a ``History``: the last ticks of
``series.csv``, and what was decided and counted by then. Pure but for reading. Only what these
files have is shown: a row has fewer columns than a tick had.
"""

from __future__ import annotations

import csv
from collections import deque
from pathlib import Path
from typing import Any

from hypervisor.public.feed import DecisionRow, Hello, Latencies, LatencyRow, Why
from hypervisor.public.units import FRAME_BYTES
from memcoord.testbed.watch import kept
from memcoord.testbed.watch.history import WINDOW_S, History
from memcoord.testbed.watch.latencies import added
from memcoord.testbed.watch.publications import Publication

SERIES = "series.csv"
#: Rows looked at, from the end on: the last window of 64 domains and short ticks.
ROWS_MAX = 64 * 400
#: The columns of a row that are of the whole tick.
_OF_TICK = ("policy", "round", "tick", "time_s", "domain")


def history_of(directory: Path) -> History | None:
    """The end of the last policy's run in ``directory``; None where no tick was kept."""
    try:
        with (directory / SERIES).open(newline="", encoding="utf-8") as file:
            rows = list(deque(csv.DictReader(file), maxlen=ROWS_MAX))
    except (OSError, UnicodeDecodeError, csv.Error):
        return None
    if not rows:
        return None
    history, last = History(), rows[-1]
    where = last["policy"], last["round"]
    rows = [row for row in rows if (row["policy"], row["round"]) == where]
    history.hear(_hello(directory, where[0], rows))
    for tick in _ticks(rows):
        history.hear(tick)
    _rest(history, directory, where[0], int(where[1]))
    return history


def _hello(directory: Path, policy: str, rows: list[dict[str, str]]) -> Hello:
    times = sorted({float(row["time_s"]) for row in rows})
    step_s = (times[-1] - times[0]) / (len(times) - 1) if len(times) > 1 else 0.0
    columns = [name for name in rows[0] if not name.startswith("host_") and name not in _OF_TICK]
    where = directory.name, "", policy
    return Hello(2, 0, 0, *where, round(1000 * step_s), FRAME_BYTES, 0, [], columns, [], [])


def _ticks(rows: list[dict[str, str]]) -> list[Publication]:
    by_tick: dict[int, list[dict[str, str]]] = {}
    for row in rows:
        by_tick.setdefault(int(row["tick"]), []).append(row)
    return [_tick(tick, own) for tick, own in sorted(by_tick.items())]


def _tick(tick: int, rows: list[dict[str, str]]) -> Publication:
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


def _rest(history: History, directory: Path, policy: str, round_index: int) -> None:
    """Decisions of the last window, and all latencies, as the feed would have told them."""
    assert history.last is not None
    end_s = history.last.monotonic_ns / 1e9
    for one in kept.decisions(directory):
        if (one.policy, one.round) == (policy, round_index) and one.time_s >= end_s - WINDOW_S:
            row = DecisionRow(
                *(one.domain, one.kind, one.old, one.new, one.asked, one.rule, one.clamp)
            )
            history.hear(Why(2, round(one.time_s * 1e9), one.tick, [row]))
    counted: dict[tuple[str, str, str], list[dict[int, int]]] = {}
    for cost in kept.latencies(directory):
        if (cost.policy, cost.round) == (policy, round_index):
            counted.setdefault((cost.domain, cost.path, cost.word), []).append(cost.counts)
    rows = [LatencyRow(*key, added(parts)) for key, parts in counted.items()]
    history.hear(Latencies(2, round(end_s * 1e9), rows))
