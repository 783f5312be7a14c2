"""The claims of paravirtualised memory hotplug in sections.

Owns: these claims and what their figures must be. Read by ``catalogue``.
"""

from __future__ import annotations

from memcoord.benchmarks.claims.claim import Claim, Figure, Results, entry

WHOSE = "paravirtualised memory hotplug in sections (Bielski et al.)"


def _arm(results: Results) -> str:
    machine = results.get("host", {}).get("machine", "")
    return "" if machine == "aarch64" else f"this machine is {machine or 'of another kind'}"


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
        (), "memcoord claims B2", "",
        lambda _results: "a remote bank is an account here; there is no second machine and no CXL",
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
            Figure("checks of the kit that sections fail", "kit", entry("count", "sections"), "0",
                   (0, 0)),
        ),
        "memcoord claims B4", "", _arm, ("host",),
    ),
)  # fmt: skip
