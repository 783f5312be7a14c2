"""The claims of SmarTmem, of which only the abstract was open to us.

Owns: these claims, what their figures must be, and how a gain is read. Read by ``catalogue``.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from memcoord.benchmarks.claims.claim import Claim, Figure, Read, Value, entry

ANY = math.inf
#: The bench in both of its forms: what their figures are called, and the options of the second.
SOURCES = {"smartmem": "simulated", "smartmem-programs": "real programs"}
MORE = {"smartmem": "", "smartmem-programs": " --world programs --scale small"}
WHOSE = "Garrido, Nishtala, Carpenter, SmarTmem, IPDPSW 2019"


def _gain(situation: str, what: str) -> Read:
    """The largest gain under smart-alloc there, of a ``domain`` or of the ``mean``, in percent."""

    def read(found: Mapping[str, Any]) -> Value:
        rows = [
            row
            for row in found["rows"].values()
            if row["policy"].startswith("smart-alloc") and situation in ("", row["situation"])
        ]
        figures = [
            figure
            for row in rows
            for figure in (row["domains"].values() if what == "domain" else [row["mean"]])
            if figure["value"] is not None
        ]
        best = max(figures, key=lambda figure: figure["value"])
        low, high = (math.nan if best[end] is None else best[end] for end in ("low", "high"))
        return float(best["value"]), float(low), float(high)

    return read


def _situation(number: str, name: str, what: str) -> Claim:
    figures = tuple(
        figure
        for source, world in SOURCES.items()
        for figure in (
            Figure(
                f"largest gain of a domain over greedy, {name}, {world}", source,
                _gain(name, "domain"), "at least 5 %", (5, ANY), (0.5, 5), "%",
            ),
            Figure(
                f"largest mean gain of all domains, {name}, {world}", source,
                _gain(name, "mean"), "not below 0", (0, ANY), None, "%",
            ),
        )
    )  # fmt: skip
    but = "programs of CloudSuite's kinds, not CloudSuite; sizes are this project's"
    commands = (f"memcoord bench smartmem --scenario {name}{more}" for more in MORE.values())
    return Claim(number, WHOSE, what, figures, "; ".join(commands), but)


CLAIMS = (
    Claim(
        "T1", WHOSE,
        "A user-space policy sets targets now and then; the hypervisor enforces them at each put.",
        (
            Figure("domains whose puts were refused by their target", "refusals",
                   entry("domains_refused"), "all 3", (3, 3), (1, 2)),
        ),
        "memcoord claims T1",
    ),
    _situation("T2", "S1", "Three VMs of in-memory analytics run faster than with greedy tmem."),
    _situation("T3", "S2", "Graph analytics with a VM that comes late runs faster."),
    _situation("T4", "S3", "Graph analytics, with analytics that come late, run faster."),
    _situation("T5", "usemem", "Three VMs that allocate and sweep memory (usemem) run faster."),
    Claim(
        "T6", WHOSE, "The running time of an application improves by up to 35 %.",
        (
            *(
                Figure(f"largest gain of a domain in any situation, {world}", source,
                       _gain("", "domain"), "35 %, at least 28 %", (28, ANY), (3, 28), "%")
                for source, world in SOURCES.items()
            ),
        ),
        "; ".join(f"memcoord bench smartmem{more}" for more in MORE.values()),
        "for one domain, at the cost of others; an equal share (static-alloc) does as much",
    ),
)  # fmt: skip
