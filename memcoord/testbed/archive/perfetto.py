"""A run as a trace for ui.perfetto.dev and chrome://tracing: JSON of trace events.

Owns: the tracks. A policy is a process, a domain a thread of it, all from time 0, so that policies
lie one above the other: the life of each domain, decisions as instants with their rule, ticks on a
track of their own; memory held and wanted, waiting, pages from disk, grants by path, transfers and
punches as counters. What a run did not record has no track. Pure.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import numpy as np

from memcoord.testbed.archive.columns import Columns, by_domain, in_order, length, rate, rows_where
from memcoord.testbed.archive.latencies import quantile
from memcoord.testbed.archive.outcome import Outcome
from memcoord.testbed.archive.over_time import MIB, window_of

Event = dict[str, Any]
US = 1e6
TICKS_THREAD = 0
#: Counter -> its values: the column, what it is called, a factor.
LEVELS: dict[str, tuple[tuple[str, str, float], ...]] = {
    "RAM, MiB": (("ram_bytes", "held", 1 / MIB), ("ram_target_bytes", "target", 1 / MIB)),
    "tmem, MiB": (("tmem_bytes", "held", 1 / MIB), ("tmem_target_bytes", "target", 1 / MIB)),
}
RATES: dict[str, tuple[tuple[str, str, float], ...]] = {
    "waits, %": (("stall_s", "waits", 100.0),),
    "disk, pages per s": (("disk_reads", "read", 1.0),),
}
#: Counts of areas of 2 MiB since the domain came.
COUNTS: dict[str, tuple[tuple[str, str, float], ...]] = {
    "grants, areas": (
        ("grants_credit", "credit", 1.0),
        ("grants_ring", "ring", 1.0),
        ("grants_transfer", "transfer", 1.0),
    ),
    "punched, areas": (("reclaimed_areas", "punched", 1.0),),
}
HOST = (
    ("host_installed_bytes", "RAM", 1 / MIB),
    ("host_tmem_bytes", "tmem", 1 / MIB),
    ("host_free_bytes", "free", 1 / MIB),
)


def events(run: Outcome, round: int = 0) -> Iterator[Event]:
    """The trace events of one round under every policy."""
    for number, policy in enumerate(run.policies, start=1):
        ticks = run.series(policy, round=round)
        if not length(ticks):
            continue
        yield _named("process_name", number, 0, policy)
        yield from _ticks(number, ticks)
        yield from _host(number, ticks)
        states = {one.domain: one for one in run.report.policies[number - 1].domains}
        for thread, (name, own) in enumerate(by_domain(ticks).items(), start=1):
            yield _named("thread_name", number, thread, name)
            result = states.get(name)
            told = {"state": result.state, "workload": result.workload} if result else {}
            yield _life(number, thread, name, own, told)
            yield from _counters(number, name, own)
            yield from _decided(number, thread, run.decisions(policy, name, round=round))
            yield from _latencies(number, name, run.latencies(policy, name, round=round))


def trace(run: Outcome, round: int = 0) -> dict[str, Any]:
    """The whole object, as the file holds it."""
    other = {"scenario": run.report.scenario, "round": round, "by": "memcoord"}
    return {
        "displayTimeUnit": "ms",
        "otherData": other,
        "traceEvents": list(events(run, round)),
    }


def _named(what: str, process: int, thread: int, name: str) -> Event:
    return {"ph": "M", "name": what, "pid": process, "tid": thread, "args": {"name": name}}


def _us(time_s: float) -> float:
    return round(time_s * US, 1)


def _ticks(process: int, ticks: Columns) -> Iterator[Event]:
    yield _named("thread_name", process, TICKS_THREAD, "ticks")
    numbers, first = np.unique(ticks["tick"], return_index=True)
    for number, time_s in zip(numbers.tolist(), ticks["time_s"][first].tolist(), strict=True):
        at = {"pid": process, "tid": TICKS_THREAD, "ts": _us(time_s)}
        yield {"ph": "i", "s": "t", "name": f"tick {number:.0f}", "cat": "tick", **at}


def _host(process: int, ticks: Columns) -> Iterator[Event]:
    _, first = np.unique(ticks["tick"], return_index=True)
    host = {name: values[first] for name, values in ticks.items()}
    yield from _counter(process, "host memory, MiB", host["time_s"], _values(host, HOST))


def _life(process: int, thread: int, name: str, own: Columns, told: dict[str, str]) -> Event:
    begin, end = float(own["time_s"][0]), float(own["time_s"][-1])
    at = {"pid": process, "tid": thread, "ts": _us(begin), "dur": _us(end - begin)}
    return {"ph": "X", "name": name, "cat": "domain", **at, "args": told}


def _counters(process: int, name: str, own: Columns) -> Iterator[Event]:
    time_s = own["time_s"]
    for title, wanted in {**LEVELS, **COUNTS}.items():
        yield from _counter(process, f"{name} {title}", time_s, _values(own, wanted))
    window_s = window_of(float(time_s[-1]))
    for title, wanted in RATES.items():
        rates = {
            column: rate(time_s, own[column], window_s) for column, _, _ in wanted if column in own
        }
        yield from _counter(process, f"{name} {title}", time_s, _values(rates, wanted))


def _values(own: Columns, wanted: tuple[tuple[str, str, float], ...]) -> dict[str, np.ndarray]:
    return {shown: own[column] * factor for column, shown, factor in wanted if column in own}


def _counter(
    process: int, name: str, time_s: np.ndarray, values: dict[str, np.ndarray]
) -> Iterator[Event]:
    """A counter's values, where any of them changed; what is not known or not limited is left."""
    before: dict[str, float] | None = None
    rows = zip(*(column.tolist() for column in values.values()), strict=True)
    for at_s, row in zip(time_s.tolist(), rows, strict=True) if values else ():
        args = {
            key: round(value, 3)
            for key, value in zip(values, row, strict=True)
            if math.isfinite(value)
        }
        if args and args != before:
            yield {"ph": "C", "name": name, "pid": process, "ts": _us(at_s), "args": args}
        before = args


def _decided(process: int, thread: int, decisions: Columns) -> Iterator[Event]:
    for number in range(length(decisions)):
        row = {name: values[number] for name, values in decisions.items()}
        old, new = (_mib(float(row[f"{end}_target_bytes"])) for end in ("old", "new"))
        kind = str(row["kind"])
        name = f"{kind} {old} -> {new}" if kind in ("tmem", "ram") else kind
        args = {"rule": str(row["rule"])}
        if row["clamp"]:
            args["clamp"] = str(row["clamp"])
        at = {"pid": process, "tid": thread, "ts": _us(float(row["time_s"]))}
        yield {"ph": "i", "s": "t", "name": name, "cat": "decision", **at, "args": args}


def _mib(value_bytes: float) -> str:
    return f"{value_bytes / MIB:.1f} MiB" if math.isfinite(value_bytes) else "no limit"


def _latencies(process: int, name: str, found: Columns) -> Iterator[Event]:
    """Per second, how many grants by path, and the median on the host's clock."""
    own = rows_where(found, word="host") if length(found) else found
    for path in in_order(own["path"]) if length(own) else ():
        rows = rows_where(own, path=path)
        for at_s in np.unique(rows["time_s"]).tolist():
            now = {column: values[rows["time_s"] == at_s] for column, values in rows.items()}
            middle = quantile(now, 0.5)
            at = {"pid": process, "ts": _us(at_s)}
            if middle is not None:
                args = {"p50": round(middle * US, 1)}
                yield {"ph": "C", "name": f"{name} {path}, µs", **at, "args": args}
