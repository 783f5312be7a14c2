"""How much memory a virtual machine's domain is to have booked in the host's ledger. Pure.

Owns: the rule by which frames go back to the host. The machine's memory is QEMU's, the ledger's
frames are its price. The domain books what the machine may use before the machine is told that it
may; it gives frames back only when the size of the devices *and* the memory really behind the
guest's say that the machine is without them. So what another machine grows by has arrived, whatever
a guest or a device promises. What cannot be seen is taken for used. Called by the domain's program.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from hypervisor.public.units import AREA_BYTES
from memcoord.testbed.machines.observation import Observation

#: A guest may be so much above what is booked before it is said: page tables of the host's, and
#: pages that were touched between two looks.
TOLERANCE_BYTES = 2 * AREA_BYTES


@dataclass(frozen=True)
class Books:
    """What is to be done with ``booked_bytes`` under ``target_bytes``, as the machine was seen.

    ``request_bytes``: to ask the host for. ``release_bytes``: to give back. ``goal_bytes``: what
    the devices may be led to. ``excess_bytes``: what the machine uses that is not booked.
    """

    request_bytes: int
    release_bytes: int
    goal_bytes: int
    excess_bytes: int


def balance(booked_bytes: int, target_bytes: int, seen: Observation) -> Books:
    """The next step towards the target. Sizes are whole areas of 2 MiB."""
    used = in_use(seen)
    keep = booked_bytes if math.isnan(used) else max(target_bytes, _areas_up(used))
    excess = 0 if math.isnan(seen.resident_bytes) else int(seen.resident_bytes) - booked_bytes
    return Books(
        request_bytes=max(target_bytes - booked_bytes, 0),
        release_bytes=max(booked_bytes - keep, 0),
        goal_bytes=min(booked_bytes, target_bytes),
        excess_bytes=excess if excess > TOLERANCE_BYTES else 0,
    )


def in_use(seen: Observation) -> float:
    """What the machine may still use: its devices' size or the memory behind it, if that is more.

    NaN when either is not known.
    """
    return seen.current_bytes + max(seen.resident_bytes - seen.current_bytes, 0.0)


def _areas_up(size: float) -> int:
    return math.ceil(size / AREA_BYTES) * AREA_BYTES
