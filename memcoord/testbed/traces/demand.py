"""Demand traces: the memory that a real program held, moment by moment; and how bursty it is.

Owns: the file (a row where a number changed), the shipped ones,
and the definition of a burst. Anonymous and shared memory together are the demand: a page of a file
can be had again. A *burst* is growth by BURST_KIB and more in which the program never rests for
REST_US: memory it gives back meanwhile is taken off. A *rate of growth* is the growth within the
last RATE_US (or since the sample before, if that is longer) at a sample of a burst, of anonymous
memory alone, and of none when a process was found then: all that it has is seen at once. A *gap* is
the time from the end of a burst to the beginning of the next one. Pure but for files.
Called by: the verb ``memcoord trace record-demand``, ``memcoord.benchmarks.bursts``.
"""

from __future__ import annotations

import itertools
import lzma
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from hypervisor.public.units import AREA_BYTES
from memcoord.testbed.traces.table import Table, read_table, shipped_table

#: The least growth that is a burst: the area in which memory is granted.
BURST_KIB = AREA_BYTES // 1024
REST_US = 10_000
RATE_US = 1_000
COLUMNS = ("t_us", "since_us", "anonymous_kib", "shared_kib", "processes")
#: Programs whose demand is shipped, by the kind of work; data/README.md says how each was made.
SHIPPED = ("browser", "compiler", "editor", "feed", "game", "player")
KIB_PER_MIB = 1024.0
QUANTILES = {"p50": 0.5, "p99": 0.99, "max": 1.0}


@dataclass(frozen=True)
class DemandTrace:
    """Demand over time: from ``t_us[i]`` on it is ``anonymous_kib[i] + shared_kib[i]``.

    ``since_us[i]``: since the sample before, which may have changed nothing and so be no row.
    """

    t_us: NDArray[np.int64]
    since_us: NDArray[np.int64]
    anonymous_kib: NDArray[np.int64]
    shared_kib: NDArray[np.int64]
    processes: NDArray[np.int64]

    @property
    def kib(self) -> NDArray[np.int64]:
        """The demand."""
        total: NDArray[np.int64] = self.anonymous_kib + self.shared_kib
        return total


@dataclass(frozen=True)
class Burst:
    """From the sample before the first growth to the last that grew."""

    begin_us: int
    end_us: int
    kib: int


@dataclass(frozen=True)
class Burstiness:
    """How bursty a trace is. Rates in MiB/s and gaps in ms, by the names of QUANTILES."""

    seconds: float
    peak_mib: float
    bursts: int
    burst_mib: dict[str, float]
    rate_mib_s: dict[str, float]
    gap_ms: dict[str, float]


def shipped_demand(name: str) -> DemandTrace:
    """One of SHIPPED; ConfigError."""
    return _of_table(shipped_table(f"demand_{name}.csv.xz"))


def read_demand(source: str, key: str = "FILE") -> DemandTrace:
    """The trace in a file; ConfigError when there is none, or no time goes on.

    API: of what ``memcoord trace record-demand`` has written.
    """
    return _of_table(read_table(source, key))


def _of_table(table: Table) -> DemandTrace:
    blocks = list(table.rows(dict.fromkeys(COLUMNS, 1 << 50)))
    columns = (np.concatenate(column).astype(np.int64) for column in zip(*blocks, strict=True))
    trace = DemandTrace(*columns)
    if (np.diff(trace.t_us) <= 0).any():
        raise table.wrong("t_us must grow from row to row")
    return trace


def write_demand(path: Path, trace: DemandTrace) -> None:
    """Write a file, packed by xz: all of it, or none."""
    columns = (getattr(trace, name).tolist() for name in COLUMNS)
    rows = (",".join(map(str, row)) for row in zip(*columns, strict=True))
    text = "\n".join([",".join(COLUMNS), *rows, ""])
    unfinished = path.with_name(f".{path.name}.part")
    try:
        unfinished.write_bytes(lzma.compress(text.encode("ascii"), preset=9 | lzma.PRESET_EXTREME))
        os.replace(unfinished, path)
    finally:
        unfinished.unlink(missing_ok=True)


def bursts_of(trace: DemandTrace) -> list[Burst]:
    """The bursts, in order."""
    kib, grown = trace.kib, np.diff(trace.kib) > 0
    found: list[Burst] = []
    for first, last in _runs(trace.t_us, np.flatnonzero(grown) + 1):
        size = int(kib[last] - kib[first - 1])
        if size >= BURST_KIB:
            begin_us = int(trace.t_us[first] - trace.since_us[first])
            found.append(Burst(begin_us, int(trace.t_us[last]), size))
    return found


def _runs(t_us: NDArray[np.int64], growing: NDArray[np.int64]) -> Iterator[tuple[int, int]]:
    """Growing samples with less than REST_US between one and the next: the first, and the last."""
    if not len(growing):
        return
    rests = np.flatnonzero(np.diff(t_us[growing]) > REST_US)
    begins, ends = [0, *(rests + 1)], [*rests, len(growing) - 1]
    for begin, end in zip(begins, ends, strict=True):
        yield int(growing[begin]), int(growing[end])


def rates_mib_s(trace: DemandTrace, bursts: list[Burst]) -> NDArray[np.float64]:
    """The rate at every sample of a burst that has grown within RATE_US."""
    window_us = np.maximum(trace.since_us, RATE_US)
    before = np.searchsorted(trace.t_us, trace.t_us - window_us, side="right") - 1
    before = np.maximum(before, 0)
    grown = trace.anonymous_kib - trace.anonymous_kib[before]
    came = np.cumsum(np.maximum(np.diff(trace.processes, prepend=trace.processes[0]), 0))
    grown[came > came[before]] = 0
    inside = np.zeros(len(grown), dtype=bool)
    for burst in bursts:
        first, last = np.searchsorted(trace.t_us, [burst.begin_us + 1, burst.end_us + 1])
        inside[first:last] = True
    chosen = inside & (grown > 0)
    rates: NDArray[np.float64] = grown[chosen] / KIB_PER_MIB / (window_us[chosen] / 1e6)
    return rates


def burstiness(trace: DemandTrace) -> Burstiness:
    """The figures of a trace."""
    bursts = bursts_of(trace)
    gaps = [(after.begin_us - one.end_us) / 1e3 for one, after in itertools.pairwise(bursts)]
    return Burstiness(
        seconds=round(float(trace.t_us[-1] - trace.t_us[0]) / 1e6, 3),
        peak_mib=round(float(trace.kib.max()) / KIB_PER_MIB, 1),
        bursts=len(bursts),
        burst_mib=_quantiles([burst.kib / KIB_PER_MIB for burst in bursts]),
        rate_mib_s=_quantiles(rates_mib_s(trace, bursts)),
        gap_ms=_quantiles(gaps),
    )


def _quantiles(values: NDArray[np.float64] | list[float]) -> dict[str, float]:
    """By nearest rank; {} without values."""
    if not len(values):
        return {}
    found = {n: np.quantile(values, q, method="inverted_cdf") for n, q in QUANTILES.items()}
    return {name: round(float(value), 2) for name, value in found.items()}
