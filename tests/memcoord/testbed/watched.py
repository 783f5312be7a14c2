"""Messages of a feed that a test makes up, one tick after the other: not a test."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from hypervisor.public.feed import (
    FEED_VERSION,
    DecisionRow,
    DomainLimits,
    Hello,
    Latencies,
    LatencyRow,
    Why,
)
from memcoord.testbed.watch.history import History
from memcoord.testbed.watch.publications import Publication

MIB = 256
STEP_S = 0.1
WALL_AHEAD_NS = 1_700_000_000 * 10**9
HOST = {"total_frames": 24 * MIB, "installed_frames": 8 * MIB, "tmem_frames": 12 * MIB}
HOST |= {"ready_frames": 0, "free_frames": 4 * MIB, "tmem_capacity_pages": 14 * MIB}
HOST |= {"slack_frames": 2 * MIB, "tmem_used_pages": 5 * MIB, "policy_faults": 0}
VM: dict[str, Any] = {
    "name": "vm1",
    "broken": False,
    "current_frames": 2 * MIB,
    "target_frames": 2 * MIB,
    "tmem_used_pages": 5 * MIB,
    "tmem_target_pages": 6 * MIB,
    "guest_references": 0,
    "guest_stall_ns": 0,
    "guest_swap_ins": 0,
    "puts_failed": 0,
    "refused": 0,
    "grants_credit": 0,
    "grants_ring": 0,
    "grants_transfer": 0,
    "resident_frames": 2 * MIB,
    "pinned_frames": 0,
    "puts": 0,
    "gets": 0,
    "gets_hit": 0,
    "guest_faults": 0,
    "guest_swap_outs": 0,
    "grown_frames": 0,
    "shrunk_frames": 0,
    "ring_requests": 0,
    "bad_requests": 0,
    "violations": 0,
    "reach": "reached",
    "reach_why": "",
}
#: A domain that works and waits for nothing.
BUSY = {"guest_references": 10_000}


def hello(
    run: str = "1-greedy", names: tuple[str, ...] = ("vm1",), restarts: int = 0, now_ns: int = 0
) -> Hello:
    rows = [
        DomainLimits(name, n, "direct", 512, 4096, 512, 4096, 0, -1) for n, name in enumerate(names)
    ]
    of_run = run, "main", "smart-alloc:P=2", 100, 4096, restarts
    clocks = now_ns, now_ns + WALL_AHEAD_NS
    return Hello(FEED_VERSION, *clocks, *of_run, [*HOST], [*VM], [], rows)


class Run:
    """A run in which every counter of a domain rises by as much each second as it is told."""

    def __init__(self, **rates: Mapping[str, int]) -> None:
        self.rates = rates or {"vm1": BUSY}
        self.history = History()
        self.history.hear(hello(names=tuple(self.rates)))
        self.number = 0
        self.host = dict(HOST)
        self.shown: dict[str, dict[str, Any]] = {name: {} for name in self.rates}

    @property
    def now_ns(self) -> int:
        return round(self.number * STEP_S * 1e9)

    def tick(self) -> Publication:
        self.number += 1
        rows = []
        for name, rates in self.rates.items():
            counts = {key: round(rate * self.number * STEP_S) for key, rate in rates.items()}
            rows.append(VM | {"name": name} | counts | self.shown[name])
        return Publication(self.number, self.now_ns, dict(self.host), rows)

    def go(self, ticks: int = 30) -> History:
        for _ in range(ticks):
            self.history.hear(self.tick())
        return self.history

    def decide(self, domain: str, old: int, new: int, rule: str = "grow", clamp: str = "") -> None:
        row = DecisionRow(domain, "tmem", old, new, new, rule, clamp)
        self.history.hear(Why(FEED_VERSION, self.now_ns, self.number, [row]))

    def latencies(self, **counts: int) -> list[LatencyRow]:
        """Rows of vm1: ``ring_guest=3`` are three of one bucket; unless told, as many as ticks."""
        told = counts or {"ring_guest": self.number, "ring_host": self.number}
        return [
            LatencyRow("vm1", *path.split("_"), {20: count})  # type: ignore[call-arg]
            for path, count in told.items()
        ]

    def count(self, **counts: int) -> None:
        """Have the history hear ``latencies``."""
        self.history.hear(Latencies(FEED_VERSION, self.now_ns, self.latencies(**counts)))
