"""The claims of Mohapatra's dissertation on coordinated memory management, of which only the
abstract was open to us.

Owns: these claims and what their figures must be. Read by ``catalogue``.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from memcoord.benchmarks.claims.claim import Claim, Figure, Read, Value, entry, of_rows, ratio

ANY = math.inf
WHOSE = "Mohapatra, Coordinated Memory Management, 2015"
PART_OF_CLAIM = "bench interference, p99 with 4 neighbours"

OURS = "direct credit 1"


def _later(candidate: str) -> Read:
    """Percent of the programs' bursts that are late, less those that are late under OURS."""

    def read(found: Mapping[str, Any]) -> Value:
        shares = [
            found["rows"][f"{name} bursts of programs"]["in_time"]["value"]
            for name in (OURS, candidate)
        ]
        return 100.0 * (shares[0] - shares[1]), math.nan, math.nan

    return read


CLAIMS = (
    Claim(
        "M1", WHOSE,
        "Applications need memory in bursts, and existing mechanisms are too slow for them.",
        (
            Figure("bursts of six programs late under the balloon, beyond those under direct",
                   "bursts", _later("balloon"), "at least 10 points", (10, ANY), (1, 10),
                   "points"),
            Figure("the same under virtio-mem", "bursts", _later("virtio-mem"),
                   "at least 10 points", (10, ANY), (1, 10), "points"),
            Figure("balloon's mean stall of a burst over that of direct", "bursts",
                   ratio(f"balloon/{OURS} bursts of programs mean stall"),
                   "at least 2", (2, ANY), (1.1, 2)),
            Figure("virtio-mem's, the same", "bursts",
                   ratio(f"virtio-mem/{OURS} bursts of programs mean stall"),
                   "at least 2", (2, ANY), (1.1, 2)),
        ),
        "memcoord bench bursts",
        "the densest seconds of each program; the host has free memory for every request",
    ),
    Claim(
        "M2", WHOSE, "Memory can be coordinated between VMs by split drivers (CMM).",
        (
            Figure("checks of the kit that cmm fails", "kit", entry("count", "cmm"), "0", (0, 0)),
        ),
        "memcoord claims M2", "made from the abstract; dom0 is a thread, and domains are processes",
    ),
    Claim(
        "M3", WHOSE,
        "Compared with ballooning and transcendent memory, CMM moves memory faster.",
        (
            Figure("balloon's transfer over cmm's, 4 KiB pages", "mechanisms",
                   of_rows("balloon transfer 4k", "cmm hypervisor transfer 4k"),
                   "above 1.1", (1.1, ANY), (0.9, 1.1)),
            Figure("virtio-mem's transfer over cmm's, 4 KiB pages", "mechanisms",
                   of_rows("virtio-mem transfer 4k", "cmm hypervisor transfer 4k"),
                   "above 1.1", (1.1, ANY), (0.9, 1.1)),
        ),
        "memcoord bench mechanisms", "all mechanisms are of this project, in one address space",
    ),
    Claim(
        "M4", WHOSE,
        "The scheduler interferes with coordination, and constructs can reduce that.",
        (
            Figure("cmm without over with all protections", "interference",
                   ratio("cmm hypervisor without/with together p99 4 neighbours"),
                   "at least 1.5", (1.5, ANY), (1.05, 1.5)),
            Figure("transfer without over with all protections", "interference",
                   ratio("transfer without/with together p99 4 neighbours"),
                   "at least 1.5", (1.5, ANY), (1.05, 1.5)),
            Figure("cmm without over with priority alone", "interference",
                   ratio("cmm hypervisor without/with priority p99 4 neighbours"),
                   "at least 1.5", (1.5, ANY), (1.05, 1.5)),
            Figure("the same with 8 neighbours", "interference",
                   ratio("cmm hypervisor without/with priority p99 8 neighbours"),
                   "at least 1.5", (1.5, ANY), (1.05, 1.5)),
        ),
        "memcoord bench interference",
        "Linux schedules processes here, no hypervisor schedules virtual CPUs",
    ),
    Claim(
        "M5", WHOSE, "A revised design, in which the hypervisor does more, is faster.",
        (
            Figure(f"dom0's design over the revised one, {PART_OF_CLAIM}", "interference",
                   ratio("cmm dom0/cmm hypervisor transfer p99 4 neighbours"),
                   "at least 2", (2, ANY), (1.05, 2)),
            Figure("the same with priority for the hypervisor", "interference",
                   ratio("cmm dom0/cmm hypervisor transfer p99 priority 4 neighbours"),
                   "at least 2", (2, ANY), (1.05, 2)),
            Figure("the same at the median, without neighbours", "mechanisms",
                   of_rows("cmm dom0 transfer 4k", "cmm hypervisor transfer 4k"),
                   "at least 2", (2, ANY), (1.05, 2)),
        ),
        "memcoord bench interference; memcoord bench mechanisms",
    ),
    Claim(
        "M6", WHOSE, "Memory of another VM comes at a latency comparable to malloc in a VM.",
        (
            Figure("2 MiB of a donor back to back over fresh malloc, 4 KiB pages", "grant",
                   ratio("transfer_2m_back_to_back/malloc_fresh_2m 4k"),
                   "1, within 40 %", (0, 1.4), (1.4, 3)),
            Figure("the same on pages of 2 MiB, malloc with THP", "grant",
                   ratio("transfer_2m_back_to_back/malloc_fresh_2m 2m"),
                   "1, within 40 %", (0, 1.4), (1.4, 3)),
            Figure("4 KiB of credit over a pre-faulted malloc", "grant",
                   ratio("grant_credit_4k/malloc_prefaulted_4k"),
                   "1, within 40 %", (0, 1.4), (1.4, 3)),
            Figure("4 KiB held over the quickest allocator found", "grant",
                   ratio("grant_local_4k/malloc_best_4k"), "1, within 40 %", (0, 1.4), (1.4, 3)),
        ),
        "memcoord bench grant",
    ),
)  # fmt: skip
