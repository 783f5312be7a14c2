"""The claims of virtio-mem.

Owns: these claims and what their figures must be. Read by ``catalogue``.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from memcoord.benchmarks.claims.claim import Claim, Figure, Read, Results, Value, entry

ANY = math.inf
WHOSE = "Hildenbrand, Schulz, virtio-mem, VEE 2021"


def _no_guest(results: Results) -> str:
    """Why two nodes cannot be had; "" where a guest has them."""
    return str(results.get("devices", {}).get("missing", ""))


#: ``memcoord bench unplug``; "unplug" is the probe of a guest that stands still.
WORKING = "unplug under load"
AFTER_S = "10"


def _after(name: str, other: str = "") -> Read:
    """Percent that came back after AFTER_S; less that of ``other``."""

    def read(found: Mapping[str, Any]) -> Value:
        figure = found["rows"][name]["percent"][AFTER_S]
        if not other:
            return float(figure["value"]), float(figure["low"]), float(figure["high"])
        less = float(found["rows"][other]["percent"][AFTER_S]["value"])
        return float(figure["value"]) - less, math.nan, math.nan

    return read


CLAIMS = (
    Claim(
        "V1", WHOSE, "Memory can be resized in steps of 4 MiB, and finer.",
        (
            Figure("the default block", "kit", entry("granule_mib", "virtio-mem 4 MiB"),
                   "at most 4 MiB", (0, 4), None, "MiB"),
            Figure("the finest block", "kit", entry("granule_mib", "virtio-mem 2 MiB"),
                   "below 4 MiB", (0, 3.99), None, "MiB"),
            Figure("the finest step of a real device", "devices", entry("claims", "finest_mib"),
                   "2 MiB", (2, 2), None, "MiB"),
        ),
        "memcoord claims V1",
    ),
    Claim(
        "V2", WHOSE, "Resizing knows NUMA: each of two nodes of a VM is resized by itself.",
        (
            Figure("a real guest of two nodes", "devices", entry("claims", "nodes_apart"),
                   "one node is resized, the other stays (1)", (1, 1)),
        ),
        "memcoord claims V2", "QEMU's device and Linux in it, not our model", _no_guest,
        ("devices",),
    ),
    Claim(
        "V3", WHOSE, "A VM can be rebooted at any size, and has then what it should have.",
        (
            Figure("the kit's check of a reboot", "kit", entry("passed", "virtio-mem", "reboot"),
                   "passes (1)", (1, 1)),
            Figure("a real guest that boots anew", "devices", entry("claims", "reboot"),
                   "has what was asked for (1)", (1, 1)),
        ),
        "memcoord claims V3",
    ),
    Claim(
        "V4", WHOSE,
        "Of a fragmented VM more memory can be unplugged than by hotplug of DIMMs.",
        (
            Figure("unplugged of what was asked back", "unplug",
                   entry("percent", "virtio-mem 4 MiB"), "at least 90 %", (90, ANY), (25, 90), "%"),
            Figure("more than by sections of 16 MiB", "unplug", entry("over hotplug"),
                   "at least 5 points", (5, ANY), (0.5, 5), "points"),
            Figure("more than by a balloon", "unplug", entry("over balloon"),
                   "not below -5 points", (-5, ANY), None, "points"),
            Figure("of a guest that works, blocks of 4 MiB, after 10 s", WORKING,
                   _after("virtio-mem 4 MiB"), "at least 90 %", (90, ANY), (25, 90), "%"),
            Figure("the same, more than by sections of 128 MiB", WORKING,
                   _after("virtio-mem 4 MiB", "sections 128 MiB"),
                   "at least 5 points", (5, ANY), (0.5, 5), "points"),
            Figure("the same, more than by a balloon", WORKING,
                   _after("virtio-mem 4 MiB", "balloon"),
                   "not below -5 points", (-5, ANY), None, "points"),
        ),
        "memcoord claims V4; memcoord bench unplug",
        "our guest's allocator migrates pages for all of them alike",
    ),
    Claim(
        "V5", WHOSE,
        "A VM that uses memory it was not given is detected reliably, within a bounded time.",
        (
            Figure("tries that were not noticed", "detection", entry("unnoticed"), "0", (0, 0)),
            Figure("99 of 100 were noticed within", "detection", entry("p99_ms"),
                   "at most 100 ms, five ticks", (0, 100), (100, 1000), "ms"),
            Figure("the longest time until it was noticed", "detection", entry("longest_ms"),
                   "at most 100 ms, five ticks", (0, 100), (100, 1000), "ms"),
            Figure("a real guest that was not seen", "devices", entry("claims", "unnoticed"),
                   "0", (0, 0)),
        ),
        "memcoord claims V5", "noticed, not prevented: what it writes until then is written",
    ),
)  # fmt: skip
