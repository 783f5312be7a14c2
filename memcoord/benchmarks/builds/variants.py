"""How the domain of a build may give memory back: the variants of ``memcoord bench build``.

Owns: the mechanisms, their options and who acts for them. Delays are those of the originals: Linux
reports free pages after 2 s, HyperAlloc looks every 5 s. Pure.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

#: Who moves memory where the mechanism does not do it by itself.
NOBODY, RELEASES, RESIZES = "", "releases", "resizes"


@dataclass(frozen=True)
class Variant:
    """``asks``: an allocation asks the mechanism for more, or for pages of what it may take.

    ``agent``: NOBODY; RELEASES: the guest gives back whole free areas; RESIZES: a target follows
    what is in use.
    """

    name: str
    mechanism: str
    options: Mapping[str, int] = field(default_factory=dict)
    credit_areas: int = 0
    asks: bool = False
    agent: str = NOBODY


FIXED, REPORTING, AUTOMATIC = "fixed size", "reporting", "hyperalloc"
CREDITS = (0, 1, 4)
VARIANTS = (
    Variant(FIXED, "balloon"),
    Variant(REPORTING, "balloon", {"report_ms": 2000}),
    Variant("virtio-mem", "virtio-mem", agent=RESIZES),
    Variant(AUTOMATIC, "hyperalloc", {"period_ms": 5000}, asks=True),
    *(
        Variant(f"direct credit {credit}", "direct", {}, credit, asks=True, agent=RELEASES)
        for credit in CREDITS
    ),
)
#: Of ``--quick``: what the claim compares, its upper bound, and ours.
QUICK = (FIXED, REPORTING, AUTOMATIC, "direct credit 1")
BY_NAME = {variant.name: variant for variant in VARIANTS}
