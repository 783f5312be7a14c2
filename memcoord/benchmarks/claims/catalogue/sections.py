"""The claims of paravirtualised memory hotplug in sections.

Owns: these claims and what their figures must be. Read by ``catalogue``.
"""

from __future__ import annotations

from memcoord.benchmarks.claims.claim import Claim, Figure, Results, entry, ratio

WHOSE = "paravirtualised memory hotplug in sections (Bielski et al.)"


def _arm(results: Results) -> str:
    missing = results.get("arm", {}).get("missing", "")
    return f"64-bit ARM {missing}" if missing else ""


CLAIMS = (
    Claim(
        "B1", WHOSE, "Memory is plugged in sections, out of independent banks.",
        (
            Figure("checks of the kit that sections fail", "kit", entry("count", "sections"), "0",
                   (0, 0)),
            Figure("a section of 16 MiB", "kit",
                   entry("granule_mib", "hotplug in sections of 16 MiB"), "16 MiB", (16, 16), None,
                   "MiB"),
        ),
        "memcoord claims B1",
    ),
    Claim(
        "B2", WHOSE, "A bank can be remote memory, of another machine.",
        (
            Figure("sections out of a bank of another process, over one's own, time to plug",
                   "bank", ratio("plug bank/plug near"), "at most 1.5", (0, 1.5), (1.5, 3)),
            Figure("a page of it read, nothing added, over one's own", "bank",
                   ratio("read bank +0 us/read near +0 us"), "at most 1.5", (0, 1.5), (1.5, 3)),
            Figure("a program with a quarter of its memory there, 1 us added an access, over one "
                   "without", "bank", ratio("25 % far +1 us/0 % far +0 us"), "at most 2",
                   (0, 2), (2, 5)),
        ),
        "memcoord bench bank",
        "another process of this machine, with latencies added by waiting: no second machine, "
        "no CXL",
    ),
    Claim(
        "B3", WHOSE, "It needs no ACPI and no emulated hardware.",
        (
            Figure("checks of the kit that sections fail", "kit", entry("count", "sections"), "0",
                   (0, 0)),
        ),
        "memcoord claims B3", "trivially: domains are processes, and have no firmware at all",
    ),
    Claim(
        "B4", WHOSE, "It works on 64-bit ARM.",
        (
            Figure("mechanisms under which a domain lives, of 6", "arm", entry("lived"), "6",
                   (6, 6), (1, 5)),
            Figure("configurations of ring, bells and allocator that break", "arm",
                   entry("broken"), "0", (0, 0)),
        ),
        "memcoord claims B4",
        "the C of both halves alone, emulated by qemu-user: no Python, no tmem, no ARM machine",
        _arm, ("arm",),
    ),
)  # fmt: skip
