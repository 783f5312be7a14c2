"""Domains that really use more memory than they were granted.

Owns: the rule. Called by the coordinator each tick; the result is reported and nothing more: what
``on_violation`` says is done by the exact rule of ``backend/abi/excess.h``. The kernel tells how
much memory a domain uses (``st_blocks``); the domain is not asked.

``installed_frames`` counts every area of the domain that is backed, areas on their way in or out
included. One area of tolerance covers areas that moved while the counters were read. A domain above
that for EXCESS_TICKS ticks in a row is reported at each tick.
"""

from dataclasses import dataclass

from hypervisor.coordination.snapshot_view import Present
from hypervisor.public.units import AREA_FRAMES, DomId

EXCESS_TICKS = 2
TOLERANCE_FRAMES = AREA_FRAMES


@dataclass(frozen=True)
class Violation:
    """A domain with more memory than it was granted; frames of 4 KiB."""

    domid: DomId
    name: str
    resident_frames: int
    allowed_frames: int


def find_violations(present: Present) -> tuple[Violation, ...]:
    """The domains above their allowance for long enough; counts the ticks in each ``Member``."""
    found = []
    for member, now in present:
        allowed = now.installed_frames + TOLERANCE_FRAMES
        member.excess_ticks = member.excess_ticks + 1 if now.resident_frames > allowed else 0
        if member.excess_ticks >= EXCESS_TICKS:
            found.append(Violation(member.domid, now.name, now.resident_frames, allowed))
    return tuple(found)
