"""Recorded demand of real programs as the steps of ``memcoord bench bursts``, and its bursts.

Owns: which part of a trace is replayed, the turn of KiB into areas, and when a burst is served in
time. Pure, but for reading the shipped traces. Time is as it was recorded. The part is the
``window_s`` seconds in which the bursts bring the most memory; demand is counted from the least in
it. Above PEAK_AREAS it is scaled down, and ``scale`` says by how much.
A burst is served in time when none of its requests waits longer than IN_TIME_NS, or than
IN_TIME_SHARE of the burst's own duration if that is more. Its *stall* is the longest of these
waits: a request waits for those before it too.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from hypervisor.public.units import AREA_BYTES
from memcoord.benchmarks.bursts.demand import Step
from memcoord.testbed.traces.demand import (
    SHIPPED,
    Burst,
    DemandTrace,
    bursts_of,
    shipped_demand,
)

PROGRAMS = SHIPPED
PEAK_AREAS = 160
AREA_KIB = AREA_BYTES // 1024
IN_TIME_NS, IN_TIME_SHARE = 1_000_000, 0.1


@dataclass(frozen=True)
class Replay:
    """Steps, and for each burst in them its requests (numbered among all requests) and bound."""

    steps: list[Step]
    bursts: list[tuple[range, int]]
    scale: float

    @property
    def peak_areas(self) -> int:
        """The most that is wanted at once."""
        return int(np.cumsum([areas for _, areas in self.steps]).max())

    def stalls(self, waits_ns: NDArray[np.uint64]) -> NDArray[np.uint64]:
        """The stall of each burst, given the wait of each request."""
        return np.array([waits_ns[own.start : own.stop].max() for own, _ in self.bursts], np.uint64)

    def in_time(self, stalls_ns: NDArray[np.uint64]) -> float:
        """The share of the bursts that was served in time."""
        bounds = np.array([bound for _, bound in self.bursts])
        return float((stalls_ns <= bounds).mean())


@functools.cache
def replay(program: str, window_s: float) -> Replay:
    """The burstiest part of a program's shipped trace."""
    return replay_of(shipped_demand(program), window_s)


def replay_of(trace: DemandTrace, window_s: float) -> Replay:
    """The same of any trace; ValueError when it has no burst."""
    begin_us, end_us = _window(trace, bursts_of(trace), int(window_s * 1e6))
    first = int(np.searchsorted(trace.t_us, begin_us, side="right")) - 1  # what is held then
    inside = slice(max(first, 0), int(np.searchsorted(trace.t_us, end_us)))
    part = DemandTrace(*(getattr(trace, name)[inside] for name in trace.__dataclass_fields__))
    kib = part.kib - part.kib.min()
    scale = min(PEAK_AREAS * AREA_KIB / max(int(kib.max()), 1), 1.0)
    levels = _levels(np.ceil(kib * scale / AREA_KIB).astype(np.int64).tolist())
    steps: list[Step] = []
    for at_us, areas in zip(part.t_us, np.diff(levels, prepend=0), strict=True):
        if areas:
            steps.append((max(int(at_us - begin_us), 0) * 1000, int(areas)))
    if levels[-1]:
        steps.append(((end_us - begin_us) * 1000, -levels[-1]))
    return Replay(steps, _requests(steps, bursts_of(part), begin_us), round(scale, 3))


def _window(trace: DemandTrace, bursts: list[Burst], length_us: int) -> tuple[int, int]:
    """The window, beginning at a burst, with most of bursts in it."""
    if not bursts:
        raise ValueError("there is no burst in it")
    inside = [
        sum(b.kib for b in bursts[first:] if b.end_us <= start.begin_us + length_us)
        for first, start in enumerate(bursts)
    ]
    begin_us = bursts[int(np.argmax(inside))].begin_us
    return begin_us, begin_us + length_us


def _levels(needed: list[int]) -> list[int]:
    """Areas held: an area is given back when another whole one is unused too, so that demand which
    trembles at the border of an area is not give and take."""
    level, levels = 0, []
    for need in needed:
        if need > level or need < level - 1:
            level = need
        levels.append(level)
    return levels


def _requests(steps: list[Step], bursts: list[Burst], zero_us: int) -> list[tuple[range, int]]:
    """For each burst that has any, its requests and the bound of its stall."""
    due_us = np.array([at_ns // 1000 + zero_us for at_ns, areas in steps if areas > 0])
    found = []
    for burst in bursts:
        first = int(np.searchsorted(due_us, burst.begin_us, side="right"))
        end = int(np.searchsorted(due_us, burst.end_us, side="right"))
        share_ns = int(IN_TIME_SHARE * (burst.end_us - burst.begin_us) * 1000)
        if end > first:
            found.append((range(first, end), max(IN_TIME_NS, share_ns)))
    return found
